"""What one codec does differently from another is data: this configuration, saved as ``nextmem.json``."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nextmem_agents.errors import CheckpointError, InvalidArgument

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
        quantization: ``"per_latent"`` (calibrated table, one FP8 scale per latent) or
            ``"per_dimension"`` (released layout: one FP8 scale per hidden dimension).
        quantization_table: calibrated per-dimension magnitudes, D floats, for ``"per_latent"``.
        answer_layout: how latents and question make a prompt, a key of ``injection.LAYOUTS``; None when the
            codec was not trained to answer.
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
    quantization: Literal["per_latent", "per_dimension"] = "per_latent"
    quantization_table: tuple[float, ...] | None = None
    answer_layout: Literal["released"] | None = None
    adapters: bool = False
    backbone: str | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        counts = (self.max_tokens, self.tokens_per_latent, self.fixed_latents)
        if any(not isinstance(n, int) or n < 1 for n in counts if n is not None):
            raise InvalidArgument(
                f"max_tokens, tokens_per_latent and fixed_latents are whole numbers from 1, not {counts}"
            )
        if self.quantization not in ("per_latent", "per_dimension"):
            raise InvalidArgument(
                f"quantization must be 'per_latent' or 'per_dimension', not {self.quantization!r}"
            )
        if self.answer_layout not in (None, "released"):
            raise InvalidArgument(f"answer_layout must be 'released' or None, not {self.answer_layout!r}")
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
    def max_latents(self) -> int:
        """The most latents a chunk can take."""
        return self.latents_for(self.max_tokens)

    def latents_for(self, n_tokens: int) -> int:
        """L for a chunk of ``n_tokens`` text tokens."""
        if self.tokens_per_latent is None:
            assert self.fixed_latents is not None  # noqa: S101 - __post_init__ checked it; narrows the type
            return self.fixed_latents
        return -(-n_tokens // self.tokens_per_latent)

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
        chosen: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known
        }
        try:
            return cls(**chosen)
        except (TypeError, InvalidArgument) as error:
            raise CheckpointError(f"{path} is not a usable codec configuration: {error}") from error
