"""Agents with a memory, in each framework: what reads a history, and is asked about it."""

from nextmem_agents.evaluation.agents.agent import Agent, Asked, Latent

__all__ = ["Agent", "Asked", "Latent"]
