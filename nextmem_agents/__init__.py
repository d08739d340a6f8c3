"""Latent factual memory for agents."""
