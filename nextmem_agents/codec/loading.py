"""A codec's weights in their place: loaded, saved, moved, and loaded again in another decode profile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from nextmem_agents.codec import DEFAULT_CODEC, checkpoint
from nextmem_agents.codec.checkpoint import Parts
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.latents import Latents
from nextmem_agents.codec.official import read_official
from nextmem_agents.codec.own_settings import building, own_settings
from nextmem_agents.codec.roles import Placement, check_device, has_device, load_roles
from nextmem_agents.codec.tokens import CodecTokenizer
from nextmem_agents.codec.worker import CodecWorker, current_caller
from nextmem_agents.errors import CheckpointError, CodecMismatch, InvalidArgument

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
R = TypeVar("R")


class LoadedCodec:
    """The parts of a :class:`~nextmem_agents.LatentCodec`, and where they are."""

    def __init__(
        self,
        config: CodecConfig,
        parts: Parts,
        placement: Placement | None = None,
        folder: Path | None = None,
    ):
        """From parts; see :func:`nextmem_agents.codec.checkpoint.read`."""
        if config.fingerprint is None:
            raise CheckpointError("a codec needs a fingerprint; save it first")
        self.config = config
        self.fingerprint: str = config.fingerprint
        self.tokenizer = CodecTokenizer.parse(parts.tokenizer_json)
        self.encoder, self.decoder, self.reader = load_roles(parts, placement or Placement())
        self.folder = folder
        self.index_head = parts.index_head
        if self.index_head is not None and len(self.index_head.tokens) > self.decoder.vocabulary:
            raise CheckpointError(
                f"the index head names {len(self.index_head.tokens)} tokens and the backbone has "
                f"{self.decoder.vocabulary}; it belongs to another codec"
            )
        self.span_reader = parts.span_reader
        self.parts = parts
        self.worker = CodecWorker()
        self._elsewhere: dict[str, Self] = {}
        self._loading = threading.Lock()
        table = config.quantization_table
        self.quantization_table = None if table is None else torch.tensor(table)[: config.kept]

    def __deepcopy__(self, _: object) -> Self:
        """Itself: weights that nothing changes need no copy."""
        return self

    def __reduce__(self) -> str:
        raise TypeError(
            f"codec {self.config.name!r} cannot be pickled; send its name or folder, and LatentCodec.load() it there"
        )

    def together(
        self, key: Hashable, work: Callable[[list[T]], Sequence[R]], items: Sequence[T]
    ) -> Sequence[R]:
        """``work(items)``; of async calls, in the worker, with the items that others bring under the same key.

        The result of an item must not depend on the others.
        """
        caller, work = current_caller(), own_settings()(work)
        return work(list(items)) if caller is None else self.worker.run(key, work, items, caller)

    @classmethod
    @building()
    def load(
        cls,
        name_or_folder: str | Path = DEFAULT_CODEC,
        *,
        tokens_per_latent: int | None = None,
        levels: int | None = None,
        refinement_steps: int | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str = torch.float32,
        encode_dtype: torch.dtype | str | None = None,
        device_map: str | dict[str, Any] | None = None,
        attn_implementation: str | None = None,
        load_in_4bit: bool = False,
        allow_download: bool = False,
    ) -> Self:
        """Load a shipped codec by name, or one from a checkpoint folder.

        Args:
            name_or_folder: a shipped codec's name (``"mini-16"``, ``"mini"``, ``"mini-dense"``), a folder that holds
                ``nextmem.json``, or a hub id that is in the local cache.
            tokens_per_latent: another density that the codec was trained at (``densities`` in its
                ``nextmem.json``); a codec at another density is another codec, with a fingerprint of its own.
            levels: quantise latents to 2, 3, 4 or 8 levels (1.6, 2 or 3 bits), or to 16 (NF4); with a fingerprint
                of its own, too.
            refinement_steps: the most gradient steps that a text's latents take before they are stored, until the
                decoder gives the text back; see :meth:`LatentCodec.refine`. None: as the codec was saved.
            device: where the model runs.
            dtype: the type of weights and activations; float32 on a CPU is what decodes the same everywhere.
            encode_dtype: beside float32 on a CPU, the type in which a text that is encoded is multiplied. None:
                bfloat16 for codecs without adapters where the processor has a unit for it (AMX), which is 1.5 times
                as fast; else float32, which gives the same latents on every processor. Those of the two differ by
                .3 %, and quantisation changes either by 9 %. Decoding is float32 in any case.
            device_map: transformers' argument, in place of ``device``: spreads the backbone over devices.
            attn_implementation: transformers' argument.
            load_in_4bit: the backbone's weights in NF4, through bitsandbytes.
            allow_download: fetch from the Hugging Face hub what the local cache lacks.

        Raises:
            CheckpointError: no such codec, an incomplete or altered folder, another architecture, or a
                backbone without adapters.
            InvalidArgument: a density or number of levels that the codec does not have, fewer steps than 0, a
                device that is not here, or types that do not go together.
            MissingExtra: ``load_in_4bit`` or ``device_map`` without the packages they need.
        """
        folder = checkpoint.find(name_or_folder, allow_download)
        config, parts = checkpoint.read(folder, allow_download)
        config = checkpoint.at_density(config, parts, tokens_per_latent, levels, refinement_steps)
        placement = Placement(device, dtype, device_map, attn_implementation, load_in_4bit, encode_dtype)
        return cls(config, parts, placement, folder)

    @classmethod
    @building()
    def load_official(
        cls,
        base: str | Path,
        stage_1: str | Path,
        stage_2: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str = torch.float32,
        device_map: str | dict[str, Any] | None = None,
        attn_implementation: str | None = None,
        load_in_4bit: bool = False,
        allow_download: bool = False,
    ) -> Self:
        """Load the paper's released folders as they are; the numbers are the released code's.

        Other than that code, nothing is cut silently (``max_tokens`` is the paper's 128, and :meth:`encode`
        takes more only if told), special tokens inside a text stay text unless told otherwise, and decoding
        is greedy.

        Args:
            base: the backbone (Qwen3-8B): a folder, or a hub id that is in the local cache.
            stage_1: ``stage_1_checkpoint-3092``: the decoder's adapter and ``special_tokens_DTOKENS.pt``.
            stage_2: ``stage_2_checkpoint-15``: the encoder's adapter.
            device: see :meth:`load`, like all that follow.
            dtype: see :meth:`load`.
            device_map: see :meth:`load`.
            attn_implementation: see :meth:`load`.
            load_in_4bit: see :meth:`load`.
            allow_download: see :meth:`load`.

        Raises:
            CheckpointError: a file is missing or damaged, the tokenizer lacks a token, or an adapter or the
                table belongs to another backbone.
        """
        config, parts = read_official(base, stage_1, stage_2, allow_download=allow_download)
        return cls(config, parts, Placement(device, dtype, device_map, attn_implementation, load_in_4bit))

    def save_pretrained(self, folder: str | Path, *, copy_backbone: bool = False) -> None:
        """Write the checkpoint into a new folder.

        Args:
            folder: new, or empty.
            copy_backbone: bring along a backbone that the codec only refers to.

        Raises:
            CheckpointError: the folder exists and is not empty.
        """
        checkpoint.save(Path(folder), self.config, self.parts, copy_backbone=copy_backbone)

    def check(self, latents: Latents) -> None:
        """Raise CodecMismatch unless the latents are this codec's."""
        if latents.fingerprint != self.fingerprint:
            raise CodecMismatch(
                f"these latents were made by codec {latents.fingerprint[:12]}, not by {self.config.name!r} "
                f"({self.fingerprint[:12]}); use the codec that made them"
            )

    def to(self, device: str | torch.device) -> Self:
        """Move the model; returns the codec itself.

        Raises:
            InvalidArgument: the backbone was loaded in 4 bits or over a device map, and stays where it is; or there
                is no such device.
        """
        if self.decoder.in_4bit or self.decoder.spread:
            raise InvalidArgument(
                "a backbone in 4 bits or with a device_map stays where it was loaded; load the codec again "
                "there"
            )
        check_device(device)
        for role in {self.encoder, self.decoder, self.reader}:
            role.to(device)
        for head in (self.index_head, self.span_reader):
            if head is not None:
                head.to(device)
        return self

    @property
    def profile(self) -> str:
        """What decoding depends on besides the codec: nf4 or the weights' dtype, and the device class."""
        weights = "nf4" if self.decoder.in_4bit else str(self.decoder.dtype).removeprefix("torch.")
        return f"{weights}/{self.decoder.device.type}"

    @building()
    def in_profile(self, profile: str) -> Self:
        """The same codec with the weights' type and on the kind of device that ``profile`` names.

        Loaded when first asked for, and kept: near-ties fall the same way only where they fell when a payload was
        written.

        Raises:
            InvalidArgument: this machine has no such device.
            CheckpointError: the weights are no longer where they were.
        """
        if profile == self.profile:
            return self
        weights, _, device = profile.partition("/")
        with self._loading:
            if profile not in self._elsewhere:
                if not has_device(device):
                    raise InvalidArgument(
                        f"decode profile {profile} needs a {device} device, and there is none here"
                    )
                in_4bit = weights == "nf4"
                placement = Placement(device, "bfloat16" if in_4bit else weights, load_in_4bit=in_4bit)
                self._elsewhere[profile] = type(self)(self.config, self.parts, placement, self.folder)
            return self._elsewhere[profile]
