"""Readers: who answers a question from what was recalled. All speak one small protocol."""

from nextmem_agents.evaluation.readers.reader import Quotation, Reader, Told, quoted_prompt

__all__ = ["Quotation", "Reader", "Told", "quoted_prompt"]
