"""Encoding and decoding beside the released algorithm, which recomputes the whole prefix for every latent.

    python benchmarks/encoding.py [THREADS]       # writes benchmarks/encoding.md and encoding.json

A random Qwen3-architecture model of about 90 million parameters, with a random stage-2 adapter of rank 16, on texts
of 128 tokens, 15 latents each, in one process and in turns. The released code takes one text at a time, keeps the
adapter as a side path, computes logits at every position and generates with transformers. In float32, and in
bfloat16, which the released code loads and processors without AMX or AVX-512 emulate.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
from plain import PlainModel
from report import write_table
from timing import medians, milliseconds
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from nextmem_agents.codec.backbone import Backbone, shared_view
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.decoder import greedy_batch
from nextmem_agents.codec.encoder import encode_batch
from nextmem_agents.codec.lora import LoraLinear

CODEC = CodecConfig(
    "random",
    start_of_decode=1,
    end_of_text=0,
    tokens_per_latent=None,
    fixed_latents=15,
    positions="consecutive",
    quantization="per_dimension",
)
TOKENS = 128
BARS = {("encode", "1"): "≥ 4", ("encode", "32"): "≥ 25", ("decode", "1"): "≥ 1.3", ("decode", "32"): "≥ 12"}


def random_models(dtype: torch.dtype = torch.float32) -> tuple[Qwen3ForCausalLM, Qwen3ForCausalLM]:
    """Encoder and decoder over one set of weights: 768 wide, 12 layers, a vocabulary of 8,192."""
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
    decoder = Qwen3ForCausalLM(config).to(dtype)
    return adapted(decoder), decoder


def adapted(model: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """The same weights with a random adapter of rank 16 beside each linear layer."""
    found = shared_view(model)
    for name, module in list(found.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            parent, _, child = name.rpartition(".")
            a, b = (
                torch.randn(*shape) / 64 for shape in ((16, module.in_features), (module.out_features, 16))
            )
            setattr(found.get_submodule(parent), child, LoraLinear(module, a, b, 2.0))
    return found


def main(threads: int | None = None) -> None:
    """Measure, and write the table."""
    if threads is not None:
        torch.set_num_threads(threads)
    texts = torch.randint(2, 8192, (32, TOKENS), generator=torch.Generator().manual_seed(1)).tolist()
    reference = None
    turns: dict[tuple[str, str, str], Callable[[], object]] = {}
    differences = []
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        # The same weights twice: fusing lays them out anew.
        released, models = PlainModel(*random_models(dtype), CODEC), random_models(dtype)
        encoder, decoder = (Backbone(model, fuse=True) for model in models)
        values, lengths = encode_batch(encoder, CODEC, texts)
        latents = released.encode(texts[0])
        reference = latents if reference is None else reference
        differences += [f"{relative(each, reference):.1e}" for each in (latents, values[0])]

        def decode(
            n: int, decoder: Backbone = decoder, values: Tensor = values, lengths: Tensor = lengths
        ) -> None:
            greedy_batch(decoder, CODEC, values[:n], lengths[:n], steps=[TOKENS] * n, stop_at_end=False)

        def encode(n: int, encoder: Backbone = encoder) -> None:
            encode_batch(encoder, CODEC, texts[:n])

        turns[name, "encode", "released"] = partial(released.encode, texts[0])
        turns[name, "decode", "released"] = partial(released.decode, latents, TOKENS)
        for n in (1, 8, 32):
            turns[name, "encode", str(n)] = partial(encode, n)
            turns[name, "decode", str(n)] = partial(decode, n)
    found = medians(turns, rounds=3)
    rows = []
    for (name, work, batch), whole in sorted(found.items(), key=lambda item: item[0][:2], reverse=True):
        base, each = found[name, work, "released"], whole / (int(batch) if batch.isdigit() else 1)
        rows.append(
            (
                name, work, batch, milliseconds(each.clock), f"{base.clock / each.clock:.1f}",
                f"{base.processor / each.processor:.1f}", BARS.get((work, batch), ""),
            )
        )  # fmt: skip
    parameters = sum(p.numel() for p in models[1].parameters()) / 1e6
    write_table(
        __file__,
        f"{TOKENS} tokens, 15 latents, beside the released algorithm",
        f"{parameters:.0f}M parameters. Relative difference of the latents from those of the released code in float32: "
        f"ours in float32 {differences[1]}, in bfloat16 {differences[3]}; the released code's in bfloat16 "
        f"{differences[2]}.",
        ["type", "work", "batch", "ms a text", "times faster", "by processor time", "bar"],
        rows,
    )


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative difference (Frobenius)."""
    return float((found - expected).norm() / expected.norm())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
