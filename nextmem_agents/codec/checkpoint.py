"""A codec's folder on disk: what is in it, how it is found, read and written.

    nextmem.json                 codec configuration and fingerprint
    tokenizer.json               the tokenizer (tokenizers)
    special_tokens.safetensors   input embeddings of the tokens that the codec adds, if it does
    index_head.safetensors       what its latents are searched by, if it was trained for that
    span_reader.safetensors      what finds answers in them, if it was trained for that

and either the whole model

    reader_adapter/              what answers questions from latents, in PEFT's format, if it was trained for that
    config.json                  the backbone's architecture (transformers)
    model.safetensors            the backbone's weights, perhaps in shards

or the backbone's place, in nextmem.json, and

    decoder_adapter/             stage 1, in PEFT's format
    encoder_adapter/             stage 2, trained on top of stage 1
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from nextmem_agents.codec import index_head, lora, span_reader, special_tokens, tokens
from nextmem_agents.codec.config import CONFIG_FILE, CodecConfig
from nextmem_agents.codec.fingerprint import digest, read_json, weight_files
from nextmem_agents.codec.index_head import IndexHead
from nextmem_agents.codec.span_reader import SpanReader
from nextmem_agents.codec.special_tokens import SpecialTokens
from nextmem_agents.errors import CheckpointError

SHIPPED = Path(__file__).parent.parent / "checkpoints"
DECODER_ADAPTER, ENCODER_ADAPTER, READER_ADAPTER = "decoder_adapter", "encoder_adapter", "reader_adapter"

_SHIPPED_NAME = re.compile(r"[\w-]+")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["*.json", "*.safetensors"]
_TRAIN = (
    "Train adapters for it with `nextmem train`, or use the released ones (stage_1_checkpoint-3092 and "
    "stage_2_checkpoint-15) with LatentCodec.load_official(base, stage_1, stage_2)"
)


@dataclass(frozen=True, eq=False)
class Parts:
    """What a codec is made of, besides its configuration, and where that is.

    Attributes:
        backbone: folder of the backbone's ``config.json`` and weights.
        tokenizer_json: the text of ``tokenizer.json``.
        adapters: folders of the decoder's and the encoder's adapter, in this order; None for a codec without.
        special_tokens: None where the backbone's own embeddings are used as they are.
        bundled: whether the backbone lies inside the codec's own folder.
        index_head: None for a codec whose raw latents are compared.
        reader: folder of the adapter that answers, on top of the decoder; None where the decoder itself does.
        span_reader: None for a codec that has none. No part of the fingerprint: what is stored does not depend on it.
    """

    backbone: Path
    tokenizer_json: str
    adapters: tuple[Path, Path] | None = None
    special_tokens: SpecialTokens | None = None
    bundled: bool = False
    index_head: IndexHead | None = None
    reader: Path | None = None
    span_reader: SpanReader | None = None


def find(name: str | Path, allow_download: bool = False) -> Path:
    """The folder of a shipped codec by name, a folder as given, or a hub id's folder in the local cache.

    Args:
        name: a shipped codec's, such as ``"mini-16"``, a folder, or ``"owner/name"``.
        allow_download: fetch what the cache lacks from the Hugging Face hub.

    Raises:
        CheckpointError: none of them exists.
    """
    shipped = SHIPPED / str(name)
    if isinstance(name, str) and _SHIPPED_NAME.fullmatch(name) and shipped.is_dir():
        return shipped
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(name, str) and _HUB_ID.fullmatch(name):
        return _snapshot(name, allow_download)
    names = sorted(path.parent.name for path in SHIPPED.glob("*/nextmem.json"))
    raise CheckpointError(
        f"there is no codec {str(name)!r}: give a checkpoint folder, "
        f"or the name of a shipped codec ({', '.join(names) or 'none is installed'})"
    )


def shipped_as(fingerprint: str) -> str | None:
    """The name of the shipped codec that has this fingerprint."""
    folders = (file.parent for file in SHIPPED.glob(f"*/{CONFIG_FILE}"))
    return next(
        (folder.name for folder in folders if CodecConfig.load(folder).fingerprint == fingerprint), None
    )


def _snapshot(hub_id: str, allow_download: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(hub_id, local_files_only=not allow_download, allow_patterns=_FILES)
    except (OSError, ValueError) as error:
        hint = "it could not be downloaded" if allow_download else (
            "it is no folder and not in the local Hugging Face cache; nothing is downloaded unless "
            "allow_download=True says so"
        )  # fmt: skip
        raise CheckpointError(f"{hub_id!r} was not found: {hint} ({error})") from error
    return Path(found)


def read(folder: Path, allow_download: bool = False) -> tuple[CodecConfig, Parts]:
    """Configuration and parts of a checkpoint folder, compared with its fingerprint.

    Raises:
        CheckpointError: the folder is no codec, incomplete, altered or of a newer format.
    """
    if not (folder / CONFIG_FILE).is_file() and (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds a backbone, but no codec: there are no adapters. {_TRAIN}")
    config = CodecConfig.load(folder)
    if config.fingerprint is None:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} has no fingerprint; write the codec with save_pretrained"
        )
    parts = _parts(folder, config, allow_download)
    check_architecture(parts.backbone)
    found = digest(config, parts)
    if found != config.fingerprint:
        raise CheckpointError(
            f"{folder} was altered: its files hash to {found[:12]}, nextmem.json says "
            f"{config.fingerprint[:12]}. "
            "Latents made with other weights cannot be read by these; restore the original folder"
        )
    return config, parts


def at_density(
    config: CodecConfig,
    parts: Parts,
    tokens_per_latent: int | None,
    levels: int | None,
    refinement_steps: int | None,
) -> CodecConfig:
    """A codec's configuration at another density (see :meth:`CodecConfig.at`), with the fingerprint of that.

    Raises:
        InvalidArgument: a density or number of levels that the codec does not have, or fewer steps than 0.
    """
    changed = config.at(tokens_per_latent, levels, refinement_steps)
    if changed is config:
        return config
    return dataclasses.replace(changed, fingerprint=digest(changed, parts))


def _parts(folder: Path, config: CodecConfig, allow_download: bool = False) -> Parts:
    backbone = folder
    if config.backbone is not None:
        # A path relative to the checkpoint comes first: what a folder brings with it is what it was saved
        # with.
        inside = folder / config.backbone
        backbone = inside if inside.is_dir() else find(config.backbone, allow_download)
    adapters = (folder / DECODER_ADAPTER, folder / ENCODER_ADAPTER) if config.adapters else None
    if missing := [path.name for path in adapters or () if not path.is_dir()]:
        raise CheckpointError(
            f"{folder} lacks {' and '.join(missing)}: the backbone alone is no codec. {_TRAIN}"
        )
    try:
        tokenizer_json = (folder / tokens.FILE).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} holds no readable {tokens.FILE}; it is incomplete: {error}"
        ) from error
    special = SpecialTokens.load(folder) if (folder / special_tokens.FILE).is_file() else None
    bundled = backbone.resolve().is_relative_to(folder.resolve())
    head = IndexHead.load(folder) if (folder / index_head.FILE).is_file() else None
    reader = folder / READER_ADAPTER if (folder / READER_ADAPTER).is_dir() else None
    spans = SpanReader.load(folder) if (folder / span_reader.FILE).is_file() else None
    return Parts(backbone, tokenizer_json, adapters, special, bundled, head, reader, spans)


def check_architecture(backbone: Path) -> dict[str, Any]:
    """A backbone folder's configuration.

    Raises:
        CheckpointError: it is missing, or not of Qwen3's architecture.
    """
    described = read_json(backbone / "config.json")
    if described.get("model_type") != "qwen3":
        raise CheckpointError(
            f"{backbone} holds a {described.get('model_type')!r} model; a codec's backbone is of type 'qwen3'"
        )
    return described


def write(
    folder: Path,
    config: CodecConfig,
    backbone: Any,
    weights: dict[str, Tensor],
    tokenizer_json: str,
) -> None:
    """Write the checkpoint of a whole model; ``backbone`` is the transformers configuration.

    Raises:
        CheckpointError: the folder exists and is not empty.
    """
    new_folder(folder)
    backbone.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / tokens.FILE).write_text(tokenizer_json, encoding="utf-8")
    dataclasses.replace(config, fingerprint=fingerprint(folder, config)).save(folder)


def save(folder: Path, config: CodecConfig, parts: Parts, *, copy_backbone: bool = False) -> None:
    """Write a checkpoint from parts.

    Args:
        folder: new, or empty.
        config: its ``fingerprint`` is computed anew; its ``backbone`` is kept if it names a place outside.
        parts: a codec's parts.
        copy_backbone: bring the backbone along, in ``backbone/`` (beside adapters) or in the folder itself,
            in place of a reference to where it is. One that is bundled always comes along.

    Raises:
        CheckpointError: the folder exists and is not empty, or a part is missing.
    """
    files = weight_files(parts.backbone)
    new_folder(folder)
    if parts.bundled or copy_backbone:
        config = dataclasses.replace(config, backbone="backbone" if config.adapters else None)
        target = folder / (config.backbone or "")
        target.mkdir(exist_ok=True)
        index = parts.backbone / "model.safetensors.index.json"
        for path in [parts.backbone / "config.json", *files, *([index] if index.is_file() else [])]:
            shutil.copyfile(path, target / path.name)
    elif config.backbone is not None and config.backbone.startswith(".."):
        config = dataclasses.replace(config, backbone=str(parts.backbone.resolve()))
    adapters = dict(zip((DECODER_ADAPTER, ENCODER_ADAPTER), parts.adapters or (), strict=False))
    if parts.reader is not None:
        adapters[READER_ADAPTER] = parts.reader
    for name, source in adapters.items():
        (folder / name).mkdir()
        for file in (lora.CONFIG_FILE, lora.WEIGHTS_FILE):
            shutil.copyfile(source / file, folder / name / file)
    if parts.special_tokens is not None:
        parts.special_tokens.save(folder)
    if parts.index_head is not None:
        parts.index_head.save(folder)
    if parts.span_reader is not None:
        parts.span_reader.save(folder)
    (folder / tokens.FILE).write_text(parts.tokenizer_json, encoding="utf-8")
    # Last: a folder without nextmem.json is no codec, so an interrupted write is never taken for one.
    dataclasses.replace(config, fingerprint=fingerprint(folder, config)).save(folder)


def fingerprint(folder: Path, config: CodecConfig) -> str:
    """SHA-256 (hex) of what a checkpoint folder holds under a configuration; ``nextmem.json`` is not read.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    return digest(config, _parts(folder, config))


def new_folder(folder: Path) -> None:
    """Make the folder.

    Raises:
        CheckpointError: see :func:`check_new`.
    """
    check_new(folder)
    folder.mkdir(parents=True, exist_ok=True)


def check_new(folder: Path) -> None:
    """Raise CheckpointError if the folder exists and is not empty, or is a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not empty; give a new folder")
