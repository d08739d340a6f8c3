"""A codec of Qwen3-8B's shape on a GPU, beside what its memory and arithmetic allow.

    python benchmarks/gpu.py            # writes benchmarks/gpu.md and gpu.json; needs a CUDA GPU of 80 GB
    python benchmarks/gpu.py --small    # a tiny shape on any device, writes nothing: does the script run?

Random bfloat16 weights, a random stage-2 adapter of rank 16, texts of 128 tokens, 15 latents each. The floors are of an
H200 (4.3 TB/s, 790 TFLOP/s in bfloat16): every latent and every token reads the weights once, and a batch costs its
arithmetic. The plain loops, which launch every operation of every step, are the control in the same run.
"""

from __future__ import annotations

import argparse
import sys

import torch
from encoding import CODEC, TOKENS, adapted
from report import write_table
from timing import medians, milliseconds
from transformers import Qwen3Config, Qwen3ForCausalLM

from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.decoder import greedy_batch
from nextmem_agents.codec.encoder import encode_batch
from nextmem_agents.codec.slots import Slots

# ms a text; (work, batch) → floor. Of a batch: 1 / the chunks a second that the arithmetic allows.
FLOORS = {
    ("encode", 1): 48.5, ("encode", 32): 1000 / 266, ("encode", 256): 1000 / 396,
    ("decode", 1): 451.0, ("decode", 32): 1000 / 68, ("decode", 256): 1000 / 367,
}  # fmt: skip
BARS = {
    ("encode", 1): "≤ 1.3", ("encode", 32): "≤ 1.67", ("encode", 256): "≤ 1.67",
    ("decode", 1): "≤ 1.3", ("decode", 32): "≤ 2", ("decode", 256): "≤ 2",
}  # fmt: skip
SHAPES = {
    "8b": {
        "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False,
    },
    "small": {
        "vocab_size": 8192, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True,
    },
}  # fmt: skip


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a tiny shape on any device; nothing is written")
    small = parser.parse_args().small
    if not small and not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU here; `--small` runs the script on a tiny shape without one")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen3ForCausalLM(Qwen3Config(**SHAPES["small" if small else "8b"])).to(torch.bfloat16)
    encoder, decoder = Backbone(adapted(model)), Backbone(model)
    batches = (1, 2, 4) if small else (1, 32, 256)
    texts = torch.randint(2, 8192, (batches[-1], TOKENS), generator=torch.Generator().manual_seed(1)).tolist()
    in_slots, plain = {b: Slots(b) for b in (encoder, decoder)}, dict.fromkeys((encoder, decoder))

    def run(work: str, n: int, how: dict[Backbone, Slots | None]) -> None:
        for backbone, slots in how.items():
            backbone.slots = slots
        if work == "encode":
            encode_batch(encoder, CODEC, texts[:n])
        else:
            greedy_batch(decoder, CODEC, values[:n], lengths[:n], steps=[TOKENS] * n, stop_at_end=False)
        if device == "cuda":
            torch.cuda.synchronize()

    values, lengths = encode_batch(encoder, CODEC, texts)
    found = medians(
        {
            (work, n, name): lambda work=work, n=n, how=how: run(work, n, how)
            for work in ("encode", "decode")
            for n in batches
            for name, how in (("in slots", in_slots), ("plain", plain))
        },
        rounds=1 if small else 3,
    )
    rows = []
    for work in ("encode", "decode"):
        for n in batches:
            ours, control = (1000 * found[work, n, name].clock / n for name in ("in slots", "plain"))
            floor = None if small else FLOORS[work, n]
            rows.append(
                (
                    work, n, milliseconds(ours / 1000), milliseconds(control / 1000), f"{control / ours:.1f}",
                    f"{floor:.1f}" if floor else "–", f"{ours / floor:.2f}" if floor else "–",
                    BARS.get((work, n), ""),
                )
            )  # fmt: skip
    header = [
        "work",
        "batch",
        "ms a text",
        "plain loop, ms",
        "times",
        "floor of an H200, ms",
        "of the floor",
        "bar",
    ]
    if small:
        print(*(" | ".join(map(str, row)) for row in (header, *rows)), sep="\n")
        return
    write_table(
        __file__,
        f"Qwen3-8B's shape on {torch.cuda.get_device_name()}",
        f"Random bfloat16 weights; {TOKENS} tokens, 15 latents; a captured step beside the plain loop.",
        header,
        rows,
    )


if __name__ == "__main__":
    main()
