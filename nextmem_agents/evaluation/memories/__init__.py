"""Text memories: the controls that every figure of a latent memory stands beside, behind one small protocol."""

from nextmem_agents.evaluation.memories.memory import Recalled, TextMemory

__all__ = ["Recalled", "TextMemory"]
