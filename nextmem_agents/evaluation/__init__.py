"""Measuring: metrics, reconstruction, and agents that read conversations."""
