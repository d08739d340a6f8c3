"""Text to latents and back: checkpoints, encoder, decoder, injection, exact payloads."""
