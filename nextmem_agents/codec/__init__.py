"""Text to latents and back: checkpoints, encoder, decoder, injection, exact payloads."""

DEFAULT_CODEC = "mini-16"
"""The shipped codec that is used where none is named."""
