"""Encoding and decoding beside the released algorithm, which recomputes the whole prefix for every latent.

    python benchmarks/encoding.py [THREADS]       # writes benchmarks/encoding.md and encoding.json

A random Qwen3-architecture model of about 90 million parameters, with a random stage-2 adapter of rank 16, on texts
of 128 tokens, 15 latents each, in one process and in turns. The released code takes one text at a time, keeps the
adapter as a side path, computes logits at every position and generates with transformers. Float32 on both sides, which
is the native type of processors without AMX or AVX-512. The released code loads its weights in bfloat16; that is shown
too, though such a processor emulates its products.
"""

from __future__ import annotations

import sys

import torch
from plain import PlainModel
from report import write_table
from timing import medians, milliseconds
from torch import nn
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
    encoder_model, decoder_model = random_models()
    released = PlainModel(encoder_model, decoder_model, CODEC)
    in_bfloat16 = PlainModel(*random_models(torch.bfloat16), CODEC)
    encoder, decoder = Backbone(encoder_model, fuse=True), Backbone(decoder_model, fuse=True)
    texts = torch.randint(2, 8192, (32, TOKENS), generator=torch.Generator().manual_seed(1)).tolist()
    reference = released.encode(texts[0])
    values, lengths = encode_batch(encoder, CODEC, texts)
    difference = float((values[0] - reference).norm() / reference.norm())

    def decode(n: int) -> None:
        greedy_batch(decoder, CODEC, values[:n], lengths[:n], steps=[TOKENS] * n, stop_at_end=False)

    found = medians(
        {
            "encode released": lambda: released.encode(texts[0]),
            "encode released,_bfloat16": lambda: in_bfloat16.encode(texts[0]),
            "encode 1": lambda: encode_batch(encoder, CODEC, texts[:1]),
            "encode 8": lambda: encode_batch(encoder, CODEC, texts[:8]),
            "encode 32": lambda: encode_batch(encoder, CODEC, texts),
            "decode released": lambda: released.decode(values[0], TOKENS),
            "decode released,_bfloat16": lambda: in_bfloat16.decode(values[0].bfloat16(), TOKENS),
            "decode 1": lambda: decode(1),
            "decode 8": lambda: decode(8),
            "decode 32": lambda: decode(32),
        },
        rounds=3,
    )
    bars = {"encode 1": "≥ 4", "encode 32": "≥ 25", "decode 1": "≥ 1.3", "decode 32": "≥ 12"}
    rows = []
    for name, whole in found.items():
        work, batch = name.split()
        size = int(batch) if batch.isdigit() else 1
        base, each = found[f"{work} released"], whole / size
        rows.append(
            (
                work, batch.replace("_", " "), milliseconds(each.clock), f"{base.clock / each.clock:.1f}",
                f"{base.processor / each.processor:.1f}", bars.get(name, ""),
            )
        )  # fmt: skip
    parameters = sum(p.numel() for p in decoder_model.parameters()) / 1e6
    write_table(
        __file__,
        f"{TOKENS} tokens, 15 latents, beside the released algorithm",
        f"{parameters:.0f}M parameters, float32. Relative difference of the latents: {difference:.1e}.",
        ["work", "batch", "ms a text", "times faster", "by processor time", "bar"],
        rows,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
