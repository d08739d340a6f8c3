"""Training codecs: data, frames, loss, optimiser and the loop."""
