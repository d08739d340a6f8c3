"""Training frames: several texts of any length packed into one sequence of fixed shape.

One shape means one compiled graph, and no position is spent on padding. A frame has T text slots and T/r
latent slots (r tokens per latent); each text takes a multiple of r slots, and the latents above those slots.
Masks keep the texts of a frame apart, so that packing changes no number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class FrameBatch:
    """B frames of T text slots and L = T/r latent slots.

    Attributes:
        tokens: int64 [B, T], each text padded with the end-of-text token to whole latents.
        inputs: int64 [B, T], what the decoder is fed: the tokens shifted by one, [SoD] first.
        starts: bool [B, L], the first latent of each text.
        encoder_mask, decoder_mask: bool [B, 1, T + L, T + L], True where a query may attend.
        encoder_positions, decoder_positions: int64 [B, T + L].
    """

    tokens: Tensor
    inputs: Tensor
    starts: Tensor
    encoder_mask: Tensor
    decoder_mask: Tensor
    encoder_positions: Tensor
    decoder_positions: Tensor


def pack(frames: list[list[np.ndarray]], start_of_decode: int, end_of_text: int, ratio: int) -> FrameBatch:
    """Lay out texts (int arrays of token ids, none empty) as frames; each frame must fill T slots exactly.

    The encoder's sequence is [text slots, latent steps]: token t of a text at position t + 1, step j at
    r (j + 1). The decoder's is [latents, inputs]: latent j at r j, input t (the [SoD] being t = 0) at t.
    """
    texts = [
        np.concatenate([np.append(text, [end_of_text] * (-len(text) % ratio)) for text in f]) for f in frames
    ]
    tokens = torch.from_numpy(np.stack(texts).astype(np.int64))
    lengths = [[-(-len(text) // ratio) for text in f] for f in frames]
    # A text's number inside its frame, and the slot's place inside its text, per latent slot.
    segment = torch.tensor([[i for i, n in enumerate(row) for _ in range(n)] for row in lengths])
    place = torch.tensor([[j for n in row for j in range(n)] for row in lengths])
    text_segment = segment.repeat_interleave(ratio, 1)
    text_place = (place * ratio).repeat_interleave(ratio, 1) + torch.arange(ratio).repeat(place.shape[1])

    inputs = tokens.roll(1, 1)
    inputs[text_place == 0] = start_of_decode

    def mask(first: Tensor, second: Tensor) -> Tensor:
        both = torch.cat([first, second], 1)
        same = both[:, :, None] == both[:, None, :]
        return (same & torch.ones(same.shape[1:], dtype=torch.bool).tril())[:, None]

    return FrameBatch(
        tokens=tokens,
        inputs=inputs,
        starts=place == 0,
        encoder_mask=mask(text_segment, segment),
        decoder_mask=mask(segment, text_segment),
        encoder_positions=torch.cat([text_place + 1, ratio * (place + 1)], 1),
        decoder_positions=torch.cat([ratio * place, text_place], 1),
    )
