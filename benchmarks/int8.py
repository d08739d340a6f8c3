"""Whether int8 weights pay on this processor: what they gain beside float32, and which tokens they change.

    python benchmarks/int8.py       # writes benchmarks/int8.md and int8.json

`mini`, and a random model of 82 million parameters (that of ``benchmarks/encoding.py``), four ways in turns: float32
with fused layers, as the package runs them; float32 by transformers; transformers with torch's dynamic int8 in all
linear layers, the output matrix among them (weights scaled for each output, activations for each product); and the
package's fused layers with the same int8 products, which the package does not have. One thread, and the processor's
time, so that what else the machine does counts little.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from codec import texts
from encoding import CODEC, random_models
from report import write_table
from timing import medians, milliseconds
from torch import Tensor, nn

from nextmem_agents import LatentCodec
from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.decoder import prefix, teacher_forced_batch
from nextmem_agents.codec.encoder import encode_batch
from nextmem_agents.codec.fused import _Stack
from nextmem_agents.codec.matrix import Matrix
from nextmem_agents.codec.repair import MARGIN

TOKENS, ROWS = 64, 32
STEPS = 8  # decode steps timed together
ROUNDS = 3
FLOAT, PLAIN, INT8, INT8_FUSED = (
    "float32, fused",
    "float32, transformers",
    "int8, transformers",
    "int8, fused",
)


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and what it is asked.

    Attributes:
        name: for the table.
        model: a float32 Qwen3ForCausalLM.
        config: its codec's.
        ids: token ids of texts of TOKENS tokens; the first ROWS are timed.
    """

    name: str
    model: Any
    config: CodecConfig
    ids: list[list[int]]


def subjects() -> list[Subject]:
    """`mini` on texts it reconstructs, and the random model on random ones."""
    codec = LatentCodec.load("mini")
    mini = codec.tokenizer.encode(texts(codec, 4 * ROWS, TOKENS))
    drawn = torch.randint(2, 8192, (ROWS, TOKENS), generator=torch.Generator().manual_seed(1)).tolist()
    _, random = random_models()
    return [
        Subject("mini", codec.decoder.model, codec.config, mini),
        Subject("82M, random", random, CODEC, drawn),
    ]


def copied(model: Any) -> Any:
    """A copy with its matrices as a checkpoint has them, not as parts of fused ones."""
    copy_of = copy.deepcopy(model)
    for parameter in copy_of.parameters():
        parameter.data = parameter.data.contiguous()
    return copy_of


def quantized(model: Any) -> Any:
    """A copy whose linear layers are torch's dynamic int8."""
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    quantize: Callable[..., Any] = quantize_dynamic  # untyped
    return quantize(copied(model), {nn.Linear: per_channel_dynamic_qconfig})


class Int8Matrix(Matrix):
    """A weight whose products are int8."""

    def __init__(self, weight: Tensor):
        super().__init__(weight, pack=False)
        self._integers = _packed(weight.t())

    @property
    def is_plain(self) -> bool:
        """See :class:`Matrix`."""
        return False

    def product(self, x: Tensor) -> Tensor:
        """See :class:`Matrix`."""
        product: Tensor = torch.ops.quantized.linear_dynamic(x, self._integers, reduce_range=True)
        return product

    def times_plus(self, x: Tensor, summand: Tensor) -> Tensor:
        """See :class:`Matrix`."""
        return self.product(x) + summand


def fused_int8(model: Any) -> Backbone:
    """The package's fused layers with int8 products, the output matrix among them."""
    backbone = Backbone(copied(model), fuse=True)
    assert backbone._fused is not None  # noqa: S101 - narrows the type
    layers = [
        replace(
            layer,
            qkv=Int8Matrix(layer.qkv.weight),
            out=Int8Matrix(layer.out.weight),
            gate_up=Int8Matrix(layer.gate_up.weight),
            down=Int8Matrix(layer.down.weight),
        )
        for layer in backbone._fused.stack.layers
    ]
    backbone._fused.stack = _Stack(layers)
    backbone._head = Int8Matrix(backbone.model.get_output_embeddings().weight.t())
    return backbone


def _packed(weight: Tensor) -> Any:
    """A matrix [out, in] for int8 products, with a scale for each output."""
    scales = weight.abs().amax(1).clamp_min(1e-12) / 127
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    integers = torch.quantize_per_channel(weight.contiguous(), scales, zeros, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(integers, None)


@torch.inference_mode()
def measure(subject: Subject) -> dict[str, Found]:
    """What each way takes and changes."""
    float32 = Backbone(copied(subject.model), fuse=True)
    ways = {
        FLOAT: float32,
        PLAIN: Backbone(copied(subject.model)),
        INT8: Backbone(quantized(subject.model)),
        INT8_FUSED: fused_int8(subject.model),
    }
    # All decode the same latents: those of float32.
    latents, lengths = encode_batch(float32, subject.config, subject.ids)
    works: dict[str, Callable[[], object]] = {}
    for way, backbone in ways.items():
        for batch in (1, ROWS):
            steps = Steps(backbone, subject.config, latents[:batch], lengths[:batch])
            works[f"{way}: step of {batch}"] = steps.run
        works[f"{way}: prefill"] = Prefill(backbone, subject.ids[:ROWS]).run
    times = medians(works, ROUNDS)

    found: dict[str, Found] = {}
    for way, backbone in ways.items():
        tokens, leads = predictions(backbone, subject, latents, lengths, ROWS)
        tokens_alone, leads_alone = predictions(backbone, subject, latents, lengths, 1)
        first = found[FLOAT].tokens if found else tokens
        found[way] = Found(
            step=times[f"{way}: step of 1"].processor / STEPS,
            steps=times[f"{way}: step of {ROWS}"].processor / STEPS,
            prefill=times[f"{way}: prefill"].processor,
            tokens=tokens,
            unlike=int((tokens != first).sum()),
            batched=int((tokens != tokens_alone).sum()),
            moved=float((leads - leads_alone).abs().max()),
        )
    return found


@dataclass(frozen=True, eq=False)
class Found:
    """What one way takes and changes.

    Attributes:
        step: seconds of a decode step of one text.
        steps: of a decode step of ROWS texts.
        prefill: of a prefill of ROWS texts.
        tokens: its argmax tokens.
        unlike: how many of them are not float32's.
        batched: how many are others when each text is alone.
        moved: the most that the true token's lead over the others moves then.
    """

    step: float
    steps: float
    prefill: float
    tokens: Tensor
    unlike: int
    batched: int
    moved: float

    def gains(self, base: Found) -> tuple[str, str, str]:
        """How many times faster than another way: a step of one, of many, and a prefill."""
        ratios = (base.step / self.step, base.steps / self.steps, base.prefill / self.prefill)
        one, many, prefill = (f"{ratio:.2f}" for ratio in ratios)
        return one, many, prefill


class Steps:
    """STEPS decode steps of a batch, each with its logits, after the prompt of [latents, SoD]."""

    def __init__(self, backbone: Backbone, config: CodecConfig, latents: Tensor, lengths: Tensor):
        self.backbone = backbone
        self.embeddings, self.mask, self.positions = prefix(backbone, config, latents, lengths)
        self.restart()

    def restart(self) -> None:
        """Fill the cache with the prompt again."""
        self.cache = self.backbone.new_cache(TOKENS * 2)
        last = self.backbone.hidden(self.embeddings, self.mask, self.positions, self.cache, last=True)[:, 0]
        self.last, self.position = last, self.positions[:, -1:]

    def run(self) -> None:
        """Go on by STEPS steps."""
        for _ in range(STEPS):
            best = self.backbone.logits(self.last).argmax(-1)
            self.position = self.position + 1
            embedded = self.backbone.embed_generated(best[:, None])
            self.last = self.backbone.step(embedded, self.position, self.cache)[:, 0]


class Prefill:
    """The prefill of ROWS texts, to the last position's hidden state, with a cache, as encoding begins."""

    def __init__(self, backbone: Backbone, ids: list[list[int]]):
        self.backbone = backbone
        self.embeddings = backbone.embed(torch.tensor(ids))
        self.mask = torch.ones(self.embeddings.shape[:2], dtype=torch.int64)
        self.positions = torch.arange(TOKENS).expand(ROWS, -1)

    def run(self) -> None:
        """Once."""
        cache = self.backbone.new_cache(TOKENS)
        self.backbone.hidden(self.embeddings, self.mask, self.positions, cache, last=True)


def predictions(
    backbone: Backbone, subject: Subject, latents: Tensor, lengths: Tensor, batch: int
) -> tuple[Tensor, Tensor]:
    """Argmax tokens and true tokens' leads, given latents and true prefix, so many texts at a time."""
    tokens: list[int] = []
    leads: list[float] = []
    for i in range(0, len(subject.ids), batch):
        rows = slice(i, i + batch)
        found = teacher_forced_batch(
            backbone, subject.config, latents[rows], lengths[rows], subject.ids[rows]
        )
        tokens += chain.from_iterable(found[0])
        leads += chain.from_iterable(found[1])
    return torch.tensor(tokens), torch.tensor(leads)


def lines(name: str, found: dict[str, Found]) -> Iterator[tuple[str, ...]]:
    """The lines of one model."""
    for way, each in found.items():
        one, many, prefill = each.gains(found[FLOAT])
        of_all = f"of {len(each.tokens):,}"
        yield (
            name, way, milliseconds(each.step), one, milliseconds(each.steps), many, milliseconds(each.prefill),
            prefill, f"{each.unlike:,} {of_all}", f"{each.batched:,} {of_all}", f"{each.moved:.1e}",
        )  # fmt: skip


def main() -> None:
    """Measure, and write the table."""
    torch.set_num_threads(1)
    # torch announces that its int8 will move into a package of its own.
    warnings.filterwarnings("ignore", message=".*deprecated")
    found = {subject.name: measure(subject) for subject in subjects()}
    gains = {name: " / ".join(ways[INT8_FUSED].gains(ways[FLOAT])) for name, ways in found.items()}
    mini, random = found
    write_table(
        __file__,
        "Int8 weights",
        f"One thread, processor time; texts of {TOKENS} tokens; times faster than float32 fused. Int8 is not used: "
        f"in fused layers the shipped `mini` would gain {gains[mini]} times (step of 1, step of {ROWS}, prefill of "
        f"{ROWS}), and, as torch scales activations over a whole product, the other texts of a batch move the leads of "
        f"a text's tokens by up to {found[mini][INT8_FUSED].moved:.2g}, where the repairs' margin, on which proofs "
        f"rest, is {MARGIN}. The larger model would gain {gains[random]} times; its weights are random, so that its "
        "tokens are near-ties and tell nothing of a trained one's.",
        [
            "model", "way", "step of 1, ms", "step of 1, times", f"step of {ROWS}, ms", f"step of {ROWS}, times",
            f"prefill of {ROWS}, ms", f"prefill of {ROWS}, times", "tokens unlike float32's",
            f"tokens that a batch of {ROWS} changes", "largest change of a lead by the batch",
        ],
        [line for name, ways in found.items() for line in lines(name, ways)],
    )  # fmt: skip


if __name__ == "__main__":
    main()
