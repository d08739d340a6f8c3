from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextmem_agents import LatentCodec
from nextmem_agents.codec.encoder import encode_batch
from tests.codec.tiny import TEXTS


def recompute(codec: LatentCodec, ids: list[int]) -> Tensor:
    """Latents [L, D] by the definition: the whole prefix again for every latent, one text, no cache."""
    config, backbone = codec.config, codec.encoder
    n, length = len(ids), config.latents_for(len(ids))
    if config.positions == "aligned":
        ratio = config.tokens_per_latent or 0
        ids = ids + [config.end_of_text] * (-n % ratio)
        positions = [*range(1, len(ids) + 1), *(ratio * (j + 1) for j in range(length))]
        embeddings = backbone.embed(torch.tensor([ids]))
        # Padding of the last stretch of text is hidden behind no mask: it counts.
    else:
        positions = list(range(n + length))
        embeddings = backbone.embed(torch.tensor([ids]))
    sequence = torch.cat([embeddings, backbone.embed(torch.tensor([[config.start_of_decode]]))], 1)
    latents = []
    for _ in range(length):
        size = sequence.shape[1]
        hidden = backbone.hidden(
            sequence, torch.ones(1, size, dtype=torch.long), torch.tensor([positions[:size]])
        )
        latents.append(hidden[0, -1])
        sequence = torch.cat([sequence, hidden[:, -1:] * config.latent_scale], 1)
    return torch.stack(latents)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@torch.inference_mode()
def test_cached_encoding_equals_the_recomputing_loop(any_codec: LatentCodec) -> None:
    for ids in any_codec.tokenizer.encode(TEXTS):
        values, lengths = encode_batch(any_codec.encoder, any_codec.config, [ids])
        assert lengths.tolist() == [any_codec.config.latents_for(len(ids))]
        assert relative(values[0], recompute(any_codec, ids)) < 5e-6


def test_a_batch_equals_its_rows_alone(any_codec: LatentCodec) -> None:
    together = any_codec.encode(TEXTS)
    for i, text in enumerate(TEXTS):
        alone = any_codec.encode([text])
        n = int(alone.lengths[0])
        assert int(together.lengths[i]) == n
        assert relative(together.values[i, :n], alone.values[0]) < 5e-6
        assert not together.values[i, n:].any()


def test_longer_texts_take_more_latents(whole: LatentCodec) -> None:
    latents = whole.encode(TEXTS)
    counts = [whole.count_tokens(text) for text in TEXTS]
    assert latents.lengths.tolist() == [-(-n // 8) for n in counts]
    assert len(set(latents.lengths.tolist())) > 2


def test_a_fixed_length_does_not_depend_on_the_text(fixed: LatentCodec) -> None:
    assert fixed.encode(TEXTS).lengths.tolist() == [5] * len(TEXTS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_latents_are_float32_whatever_the_models_type(whole: LatentCodec, dtype: str) -> None:
    codec = LatentCodec.load(whole.folder or "", dtype=dtype)
    values = codec.encode(TEXTS).values
    assert values.dtype == torch.float32
    assert codec.profile == f"{dtype}/cpu"
    assert relative(values, whole.encode(TEXTS).values) < 0.1
