"""How far logits move between the ways of computing them: what the repair margin must exceed.

    python benchmarks/margins.py TEXT_FILE [CODEC]    # writes benchmarks/margins.md

The true token's lead over the best other one is computed as a new payload is proven, blocks of known tokens through
the key/value cache, and again step by step, as it is decoded, at several batch sizes and thread counts, from drafts,
and in one parallel pass. A lead that is positive in the one and negative in the other is a token that would be decoded
wrongly without a repair.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from report import write_table

from nextmem_agents import LatentCodec
from nextmem_agents.codec import DEFAULT_CODEC
from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.cache import StaticCache
from nextmem_agents.codec.decoder import BLOCK, cached_leads, prefix, teacher_forced_batch
from nextmem_agents.codec.latents import Latents
from nextmem_agents.codec.leads import leads_of
from nextmem_agents.codec.repair import MARGIN
from nextmem_agents.evaluation.texts import of_length, texts_of

TEXTS = 128


@torch.inference_mode()
def stepwise_leads(
    codec: LatentCodec, backbone: Backbone, latents: Latents, ids: list[list[int]]
) -> list[float]:
    """Leads of the true tokens, by the cached decoder fed with the true tokens, for a batch of equal lengths."""
    embeddings, mask, positions = prefix(backbone, codec.config, latents.values, latents.lengths)
    tokens = torch.tensor(ids)
    cache = backbone.new_cache(embeddings.shape[1] + tokens.shape[1])
    hidden = backbone.hidden(embeddings, mask, positions, cache, last=True)[:, 0]
    position = positions[:, -1:]
    leads = []
    for t in range(tokens.shape[1]):
        logits = backbone.logits(hidden)
        true = tokens[:, t : t + 1]
        leads.append(logits.gather(-1, true)[:, 0] - logits.scatter(-1, true, float("-inf")).amax(-1))
        position = position + 1
        hidden = backbone.step(backbone.embed_generated(true), position, cache)[:, 0]
    return torch.stack(leads, 1).flatten().tolist()


@torch.inference_mode()
def drafted_leads(codec: LatentCodec, latents: Latents, ids: list[list[int]], width: int) -> list[float]:
    """The same where so many tokens of each row are fed at once, of which any number turns out to be right."""
    backbone, generator = codec.decoder, torch.Generator().manual_seed(width)
    embeddings, mask, positions = prefix(backbone, codec.config, latents.values, latents.lengths)
    tokens = torch.tensor([[*row, *[0] * width] for row in ids])
    begin, steps = embeddings.shape[1], len(ids[0])
    cache = backbone.new_cache(begin + tokens.shape[1])
    assert isinstance(cache, StaticCache)  # noqa: S101 - narrows the type
    state = backbone.hidden(embeddings, mask, positions, cache, last=True)[:, 0]
    found = torch.zeros(tokens.shape)
    found[:, 0] = leads_of(backbone.logits(state), tokens[:, 0])
    settled = torch.ones(len(ids), 1, dtype=torch.int64)
    while int(settled.min()) < steps:
        places = settled - 1 + torch.arange(width)
        cache.place(begin + places)
        fed = backbone.embed_generated(tokens.gather(1, places))
        states = backbone.step(fed, positions[:, -1:] + 1 + places, cache)
        true = tokens.gather(1, places + 1)
        found.scatter_(
            1, places + 1, leads_of(backbone.logits(states.flatten(0, 1)), true.flatten()).view(true.shape)
        )
        right = torch.randint(1, width + 1, settled.shape, generator=generator)
        settled = (settled + right).clamp(max=steps)
    return found[:, :steps].flatten().tolist()


def main(path: str, name: str = DEFAULT_CODEC) -> None:
    """Measure, and write the table."""
    codec = LatentCodec.load(name)
    texts = of_length(codec, texts_of(Path(path)), 64, codec.max_tokens, TEXTS)
    ids = [row[:64] for row in codec.tokenizer.encode(texts)]
    latents = codec.dequantize(codec.quantize(codec.encode_ids(ids)))
    given = codec.decoder, codec.config, latents.values, latents.lengths, ids
    flat = torch.tensor([lead for row in cached_leads(*given) for lead in row])
    decoders = {
        "float32/cpu": codec.decoder,
        # What wrote and read stores before the layers were fused.
        "float32/cpu, transformers' own forward": Backbone(codec.decoder.model),
        "bfloat16/cpu": codec.in_profile("bfloat16/cpu").decoder,
    }
    near = int(((flat > 0) & (flat < MARGIN)).sum())
    rows: list[tuple[object, ...]] = []

    def compare(decoder: str, batch: object, threads: int, leads: list[float]) -> None:
        difference = (torch.tensor(leads) - flat).abs()
        flipped = int((((torch.tensor(leads) > 0) != (flat > 0)) & (flat >= MARGIN)).sum())
        rows.append((decoder, batch, threads, f"{difference.max():.2e}", f"{difference.mean():.1e}", flipped))

    parallel = teacher_forced_batch(*given)[1]
    one_pass = [lead for row in parallel for lead in row]
    compare("float32/cpu, one parallel pass", len(ids), torch.get_num_threads(), one_pass)
    for batch, width in ((1, 16), (5, 12), (8, 8)):
        drafted: list[float] = []
        for i in range(0, len(ids), batch):
            drafted += drafted_leads(codec, latents[i : i + batch], ids[i : i + batch], width)
        compare(f"float32/cpu, drafts of {width} tokens", batch, torch.get_num_threads(), drafted)
    for decoder, backbone in decoders.items():
        for batch, threads in ((64, 1), (7, 1), (1, 1), (64, 2)):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            leads: list[float] = []
            for i in range(0, len(ids), batch):
                leads += stepwise_leads(codec, backbone, latents[i : i + batch], ids[i : i + batch])
            torch.set_num_threads(before)
            compare(decoder, batch, threads, leads)
    write_table(
        __file__,
        "The repair margin",
        f"Leads of {len(flat):,} tokens of {Path(path).name}, codec `{codec.config.name}`: the cached decoder in "
        f"blocks of {BLOCK} known tokens, which choose the repairs, against single steps. The margin is {MARGIN}, "
        f"and {near} tokens are kept as near-ties.",
        ["decoder", "batch", "threads", "largest change", "mean change", "wrong despite the margin"],
        rows,
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
