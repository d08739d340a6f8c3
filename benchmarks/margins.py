"""How far logits move between the ways of computing them: what the repair margin must exceed.

    python benchmarks/margins.py TEXT_FILE [CODEC]    # writes benchmarks/margins.md

The true token's lead over the best other one is computed in one parallel pass, and again step by step through the
key/value cache at several batch sizes and thread counts. A lead that is positive in the one and negative in the
other is a token that would be decoded wrongly without a repair.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from report import write_table
from torch import Tensor

from nextmem_agents import LatentCodec
from nextmem_agents.codec.decoder import prefix, teacher_forced_batch
from nextmem_agents.codec.repair import MARGIN
from nextmem_agents.evaluation.texts import of_length, texts_of


@torch.inference_mode()
def stepwise_leads(codec: LatentCodec, values: Tensor, lengths: Tensor, ids: list[list[int]]) -> list[float]:
    """Leads of the true tokens, by the cached decoder fed with the true tokens, for a batch of equal lengths."""
    embeddings, mask, positions = prefix(codec.decoder, codec.config, values, lengths)
    cache = codec.decoder.new_cache()
    hidden = codec.decoder.hidden(embeddings, mask, positions, cache)[:, -1]
    position = positions[:, -1:]
    tokens = torch.tensor(ids)
    leads = []
    for t in range(tokens.shape[1]):
        logits = codec.decoder.logits(hidden)
        true = tokens[:, t : t + 1]
        leads.append(logits.gather(-1, true)[:, 0] - logits.scatter(-1, true, float("-inf")).amax(-1))
        position = position + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        hidden = codec.decoder.hidden(codec.decoder.embed_generated(true), mask, position, cache)[:, -1]
    return torch.stack(leads, 1).flatten().tolist()


def main(path: str, name: str = "mini") -> None:
    """Measure, and write the table."""
    codec = LatentCodec.load(name)
    texts = of_length(codec, texts_of(Path(path)), 64, codec.max_tokens, 64)
    ids = [row[:64] for row in codec.tokenizer.encode(texts)]
    rows = []
    for profile in ("float32/cpu", "bfloat16/cpu"):
        latents = codec.dequantize(codec.quantize(codec.encode_ids(ids)))
        reader = codec.in_profile(profile)
        _, parallel = teacher_forced_batch(codec.decoder, codec.config, latents.values, latents.lengths, ids)
        flat = torch.tensor([lead for row in parallel for lead in row])
        for batch, threads in ((64, 1), (7, 1), (1, 1), (64, 2)):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            leads: list[float] = []
            for i in range(0, len(ids), batch):
                part = latents[i : i + batch]
                leads += stepwise_leads(reader, part.values, part.lengths, ids[i : i + batch])
            torch.set_num_threads(before)
            difference = (torch.tensor(leads) - flat).abs()
            flipped = ((torch.tensor(leads) > 0) != (flat > 0)) & (flat >= MARGIN)
            near = int(((flat > 0) & (flat < MARGIN)).sum())
            rows.append(
                (profile, batch, threads, difference.max(), difference.mean(), int(flipped.sum()), near)
            )
    write_table(
        __file__,
        "The repair margin",
        f"Leads of {len(flat):,} tokens of {Path(path).name}, codec `{codec.config.name}`: one parallel float32 pass "
        f"(which chooses the repairs) against the cached decoder. The margin is {MARGIN}.",
        [
            "decoder",
            "batch",
            "threads",
            "largest change",
            "mean change",
            "wrong despite the margin",
            "near-ties kept",
        ],
        [(p, b, t, f"{m:.2e}", f"{a:.1e}", f, n) for p, b, t, m, a, f, n in rows],
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
