"""What one codec does differently from another is data: this configuration, saved as ``nextmem.json``."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nextmem_agents.errors import CheckpointError, InvalidArgument
from nextmem_agents.quantization.latents import FEW_LEVELS, NF4_LEVELS, SCHEMES, Scheme, check_levels

CONFIG_FILE = "nextmem.json"
FORMAT_VERSION = 1

Positions = Literal["consecutive", "aligned"]


@dataclass(frozen=True)
class CodecConfig:
    """The part of a codec that is neither weights nor tokenizer.

    Attributes:
        name: what people call it (``"mini"``).
        start_of_decode: token id of [SoD], which ends the encoder's text and starts the decoder's.
        end_of_text: token id that ends a text; also pads it to a whole number of latents.
        end_tokens: further token ids that end generation (released: ``<|im_end|>``).
        max_tokens: the most backbone tokens one chunk may have.
        tokens_per_latent: text tokens that one latent stands for; L = ceil(tokens / tokens_per_latent).
            None when every chunk takes ``fixed_latents`` latents, as in the paper.
        fixed_latents: L of every chunk, whatever its length (paper: 15); None otherwise.
        positions: ``"consecutive"`` numbers the sequence 0, 1, 2 … as released; ``"aligned"`` puts latent j
            at the position of the stretch of text it stands for.
        latent_scale: scalar between a final hidden state and the input embedding made of it
            (paper and released code: 1).
        quantization: ``"per_latent"`` (NF4, calibrated table, one FP8 scale per latent), ``"per_dimension"``
            (NF4, released layout: one FP8 scale per hidden dimension) or ``"few_levels"`` (fewer than 4 bits,
            calibrated table, no scales).
        quantization_levels: 2, 3, 4 or 8 for ``"few_levels"``; None for NF4.
        quantization_table: calibrated per-dimension magnitudes (RMS), D floats, for ``"per_latent"`` and
            ``"few_levels"``.
        kept_dimensions: (levels, n) pairs: at so many levels only a latent's first n dimensions are kept, and the
            others are 0; where no pair names the levels, all are.
        refinement_steps: the most gradient steps that a text's latents take before they are stored, until the decoder
            gives the text back (:mod:`nextmem_agents.codec.refinement`); 0: they are stored as the encoder makes
            them.
        index_dimensions: width to which index vectors are projected (:mod:`nextmem_agents.codec.projection`);
            None: as wide as the latents, or as the index head makes them.
        densities: values of ``tokens_per_latent`` that the codec was trained at and may be loaded with; none:
            its own only.
        answer_layout: how latents and question make a prompt, a key of ``injection.LAYOUTS``; None when the
            codec was not trained to answer.
        answers_unasked: whether the codec's reader answers in ``"auto"`` where no model is given; None: only in the
            released layout.
        adapters: whether encoder and decoder are LoRA adapters on the backbone, in ``encoder_adapter/`` and
            ``decoder_adapter/``; if not, the backbone itself is both.
        backbone: where the backbone is: a folder (relative to the checkpoint's, or absolute) or a hub id.
            None when it lies in the checkpoint's own folder.
        fingerprint: hash of all that changes latents or decoding; None until the codec is saved.

    Examples:
        >>> config = CodecConfig(name="tiny", start_of_decode=1, end_of_text=0)
        >>> config.latents_for(20)
        3
        >>> CodecConfig(name="x", start_of_decode=1, end_of_text=0, tokens_per_latent=None)
        Traceback (most recent call last):
        ...
        nextmem_agents.errors.InvalidArgument: give exactly one of tokens_per_latent and fixed_latents: ...
    """

    name: str
    start_of_decode: int
    end_of_text: int
    end_tokens: tuple[int, ...] = ()
    max_tokens: int = 128
    tokens_per_latent: int | None = 8
    fixed_latents: int | None = None
    positions: Positions = "aligned"
    latent_scale: float = 1.0
    quantization: Scheme = "per_latent"
    quantization_levels: int | None = None
    quantization_table: tuple[float, ...] | None = None
    kept_dimensions: tuple[tuple[int, int], ...] = ()
    refinement_steps: int = 0
    index_dimensions: int | None = None
    densities: tuple[int, ...] = ()
    answer_layout: Literal["released", "reader"] | None = None
    answers_unasked: bool | None = None
    adapters: bool = False
    backbone: str | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        counts = (self.max_tokens, self.tokens_per_latent, self.fixed_latents)
        if any(not isinstance(n, int) or n < 1 for n in counts if n is not None):
            raise InvalidArgument(
                f"max_tokens, tokens_per_latent and fixed_latents are whole numbers from 1, not {counts}"
            )
        if self.quantization not in SCHEMES:
            raise InvalidArgument(f"quantization must be one of {SCHEMES}, not {self.quantization!r}")
        if (self.quantization == "few_levels") == (self.quantization_levels is None):
            raise InvalidArgument("quantization_levels (2, 3, 4 or 8) belongs to quantization 'few_levels'")
        check_levels(self.quantization, self.levels)
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in self.densities):
            raise InvalidArgument(f"densities are whole numbers from 1, not {self.densities}")
        if self.densities and self.tokens_per_latent not in self.densities:
            raise InvalidArgument(
                f"densities {self.densities} lack the codec's own tokens_per_latent, {self.tokens_per_latent}"
            )
        if any(levels not in FEW_LEVELS or n < 1 for levels, n in self.kept_dimensions):
            raise InvalidArgument(
                f"kept_dimensions are pairs of few levels and a width, not {self.kept_dimensions}"
            )
        steps = self.refinement_steps
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise InvalidArgument(f"refinement_steps is a whole number from 0, not {steps!r}")
        if self.index_dimensions is not None and self.index_dimensions < 1:
            raise InvalidArgument(f"index_dimensions is a width from 1, not {self.index_dimensions}")
        if self.answer_layout not in (None, "released", "reader"):
            raise InvalidArgument(
                f"answer_layout must be 'released', 'reader' or None, not {self.answer_layout!r}"
            )
        if (self.tokens_per_latent is None) == (self.fixed_latents is None):
            raise InvalidArgument(
                "give exactly one of tokens_per_latent and fixed_latents: a codec's chunks either grow "
                "with their text or all take the same number of latents"
            )
        if self.positions not in ("consecutive", "aligned"):
            raise InvalidArgument(f"positions must be 'consecutive' or 'aligned', not {self.positions!r}")
        if self.positions == "aligned" and self.tokens_per_latent is None:
            raise InvalidArgument("aligned positions need tokens_per_latent")
        if not math.isfinite(self.latent_scale) or self.latent_scale == 0:
            raise InvalidArgument(f"latent_scale must be finite and not 0, not {self.latent_scale!r}")

    @property
    def ends(self) -> frozenset[int]:
        """The token ids that end generation."""
        return frozenset((self.end_of_text, *self.end_tokens))

    @property
    def levels(self) -> int:
        """How many values a quantised number can take: 16 for NF4, else ``quantization_levels``."""
        return NF4_LEVELS if self.quantization_levels is None else self.quantization_levels

    @property
    def kept(self) -> int | None:
        """How many of a latent's dimensions are kept; None: all."""
        return dict(self.kept_dimensions).get(self.levels)

    @property
    def max_latents(self) -> int:
        """The most latents a chunk can take."""
        return self.latents_for(self.max_tokens)

    def latents_for(self, n_tokens: int) -> int:
        """L for a chunk of ``n_tokens`` text tokens."""
        if self.tokens_per_latent is None:
            assert self.fixed_latents is not None  # noqa: S101 - __post_init__ checked it; narrows the type
            return self.fixed_latents
        return -(-n_tokens // self.tokens_per_latent)

    def at(
        self,
        tokens_per_latent: int | None = None,
        levels: int | None = None,
        refinement_steps: int | None = None,
    ) -> CodecConfig:
        """The same codec at another density; None leaves a setting as it is. The fingerprint is not changed.

        Args:
            tokens_per_latent: one of ``densities``.
            levels: 2, 3, 4, 8 (few levels) or 16 (NF4, one scale per latent).
            refinement_steps: from 0.

        Raises:
            InvalidArgument: a density that the codec was not trained at, levels that it cannot have, or fewer steps
                than 0.

        Examples:
            >>> config = CodecConfig("x", 1, 0, quantization_table=(1.0,), densities=(8, 16))
            >>> config.at(tokens_per_latent=16, levels=3).latents_for(128)
            8
            >>> config.at(tokens_per_latent=32)
            Traceback (most recent call last):
            nextmem_agents.errors.InvalidArgument: codec 'x' was trained for 8 or 16 tokens per latent, not 32
        """
        changed = self
        if refinement_steps is not None and refinement_steps != self.refinement_steps:
            changed = dataclasses.replace(changed, refinement_steps=refinement_steps)
        if tokens_per_latent is not None and tokens_per_latent != self.tokens_per_latent:
            if tokens_per_latent not in self.densities:
                own = f"{self.fixed_latents} latents, whatever the text" if self.fixed_latents else (
                    " or ".join(map(str, self.densities or (self.tokens_per_latent,))) + " tokens per latent"
                )  # fmt: skip
                raise InvalidArgument(f"codec {self.name!r} was trained for {own}, not {tokens_per_latent!r}")
            changed = dataclasses.replace(changed, tokens_per_latent=tokens_per_latent)
        if levels is not None and levels != self.levels:
            if levels not in (*FEW_LEVELS, NF4_LEVELS):
                raise InvalidArgument(f"levels must be 2, 3, 4, 8 or 16, not {levels!r}")
            if self.quantization_table is None:
                raise InvalidArgument(
                    f"codec {self.name!r} has no quantization_table: its latents cannot take {levels} levels"
                )
            few = levels != NF4_LEVELS
            changed = dataclasses.replace(
                changed,
                quantization="few_levels" if few else "per_latent",
                quantization_levels=levels if few else None,
            )
        return changed

    def save(self, folder: Path) -> None:
        """Write ``nextmem.json`` into ``folder``."""
        values = {"format_version": FORMAT_VERSION} | dataclasses.asdict(self)
        (folder / CONFIG_FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> CodecConfig:
        """Read ``nextmem.json``; keys this version does not know are left aside (forward-compatible).

        Raises:
            CheckpointError: no such file, no JSON, a newer format, or a missing or wrong value.
        """
        path = folder / CONFIG_FILE
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            version = int(values.pop("format_version"))
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder} holds no {CONFIG_FILE}: it is not a codec checkpoint. Give the folder that "
                "`nextmem train` or LatentCodec.save_pretrained wrote"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} cannot be read as a codec configuration: {error}") from error
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{path} is of format {version}; this version reads up to {FORMAT_VERSION}: "
                "update nextmem-agents"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        # JSON has no tuples.
        chosen: dict[str, Any] = {k: _tuples(v) for k, v in values.items() if k in known}
        try:
            return cls(**chosen)
        except (TypeError, InvalidArgument) as error:
            raise CheckpointError(f"{path} is not a usable codec configuration: {error}") from error


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
