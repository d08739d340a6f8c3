"""Cached encoding beside the released algorithm, which recomputes the whole prefix for every latent.

    python benchmarks/encoding.py            # writes benchmarks/encoding.md

Both run the same random Qwen3-architecture model (about 90 million parameters, float32 on the CPU) on the same
texts of 128 tokens, 15 latents each, in one process. The released code takes one text at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from report import write_table
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.encoder import encode_batch

CODEC = CodecConfig(
    "random",
    start_of_decode=1,
    end_of_text=0,
    tokens_per_latent=None,
    fixed_latents=15,
    positions="consecutive",
    quantization="per_dimension",
)


def random_backbone() -> Backbone:
    """768 wide, 12 layers, a vocabulary of 8,192."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=8192,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        head_dim=64,
        tie_word_embeddings=True,
    )
    return Backbone(Qwen3ForCausalLM(config))


@torch.inference_mode()
def recomputing(backbone: Backbone, ids: list[int]) -> Tensor:
    """The released loop: embed the text and [SoD], then L whole forward passes, each one position longer."""
    embeddings = backbone.embed(torch.tensor([[*ids, CODEC.start_of_decode]]))
    latents = []
    for _ in range(15):
        length = embeddings.shape[1]
        hidden = backbone.hidden(
            embeddings, torch.ones(1, length, dtype=torch.int64), torch.arange(length)[None], None
        )
        latents.append(hidden[:, -1:])
        embeddings = torch.cat([embeddings, hidden[:, -1:]], 1)
    return torch.cat(latents, 1)[0]


def best_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The quickest of a few runs: what the machine can do when nothing else disturbs it."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Measure, and write the table."""
    backbone = random_backbone()
    texts = torch.randint(2, 8192, (32, 128), generator=torch.Generator().manual_seed(1)).tolist()
    reference = recomputing(backbone, texts[0])
    cached, _ = encode_batch(backbone, CODEC, texts)
    difference = float((cached[0] - reference).norm() / reference.norm())
    released = best_seconds(lambda: recomputing(backbone, texts[0]))
    rows = [("released: one text, prefix recomputed", 1, released)]
    for batch in (1, 8, 32):
        seconds = best_seconds(lambda n=batch: encode_batch(backbone, CODEC, texts[:n]))  # type: ignore[misc]
        rows.append(("cached", batch, seconds / batch))
    parameters = sum(p.numel() for p in backbone.model.parameters()) / 1e6
    write_table(
        __file__,
        "Encoding 128 tokens into 15 latents",
        f"{parameters:.0f}M parameters, float32. Relative difference of the latents: {difference:.1e}.",
        ["algorithm", "batch", "ms a text", "times faster"],
        [(name, batch, f"{1000 * s:.0f}", f"{released / s:.1f}") for name, batch, s in rows],
    )


if __name__ == "__main__":
    main()
