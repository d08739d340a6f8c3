"""What identifies a codec: a hash of all that changes its latents, their decoding or their comparison.

Parts that only say where something is (the codec's name, the backbone's folder) do not enter, so that a codec
keeps its fingerprint when it is moved, or converted from the released folders. Nor do the densities that it may
be loaded at (the one it is loaded at does), nor how far latents are refined, which whoever reads them need not know,
nor a span reader, on which nothing that is stored depends.

Weights of up to 256 MB are hashed whole. Of larger ones every tensor's name, type and shape and 64 KB of its
bytes, spread evenly, are: hashing 16 GB at every load would take longer than reading them, and two backbones
that differ at all differ throughout.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.lora import WEIGHTS_FILE, read_scale
from nextmem_agents.errors import CheckpointError

if TYPE_CHECKING:
    from nextmem_agents.codec.checkpoint import Parts

_WHOLE_BYTES = 256 * 2**20
_SAMPLES, _SAMPLE_BYTES = 16, 4096

# What of the backbone's configuration changes numbers; the rest of config.json varies with transformers'
# version.
_ARCHITECTURE = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings",
    "hidden_act",
)  # fmt: skip
_NAMES = ("name", "backbone", "fingerprint", "densities", "refinement_steps", "answers_unasked")


def digest(config: CodecConfig, parts: Parts) -> str:
    """SHA-256 (hex) over the settings, the backbone, the adapters, the special tokens, the index head and the
    tokenizer.

    A setting at its default is left out: one that a later version adds does not change older codecs.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    settings = {
        field.name: value
        for field in dataclasses.fields(config)
        if (value := getattr(config, field.name)) != field.default and field.name not in _NAMES
    }
    backbone = read_json(parts.backbone / "config.json")
    architecture = {key: backbone.get(key) for key in _ARCHITECTURE} | _attention(backbone)
    total = hashlib.sha256()
    try:
        tokenizer = json.loads(parts.tokenizer_json)
    except ValueError as error:
        raise CheckpointError(f"the codec's tokenizer.json is no JSON: {error}") from error
    for part in (settings, architecture, tokenizer):
        total.update(json.dumps(part, sort_keys=True).encode())
    _add_files(total, weight_files(parts.backbone))
    for folder in (*(parts.adapters or ()), *([] if parts.reader is None else [parts.reader])):
        total.update(f"adapter of scale {read_scale(folder)!r}".encode())
        _add_files(total, [folder / WEIGHTS_FILE])
    if parts.special_tokens is not None:
        for name, tensor in parts.special_tokens.tensors().items():
            _add_tensor(total, name, tensor)
    if parts.index_head is not None:
        for name, tensor in parts.index_head.state_dict().items():
            _add_tensor(total, name, tensor.to(torch.bfloat16))
    return total.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint.

    Raises:
        CheckpointError: it is missing, or no JSON object.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read; the checkpoint is incomplete: {error}") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a backbone.

    Raises:
        CheckpointError: there are none, or a shard that the index names is missing.
    """
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}: the checkpoint is incomplete, copy it again"
        )
    return [folder / name for name in names]


def rope(backbone: dict[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """RoPE's base, and its scaling if any, from a backbone's configuration.

    transformers 4 keeps the base in ``rope_theta`` and the rest in ``rope_scaling``, 5 both in
    ``rope_parameters``, which 4 does not read.
    """
    settings = dict(backbone.get("rope_parameters") or backbone.get("rope_scaling") or {})
    inner = settings.pop("rope_theta", None)
    theta = float(backbone.get("rope_theta") or inner or 10_000.0)
    scaled = settings.get("rope_type", settings.get("type", "default")) != "default"
    return theta, settings if scaled else None


def _attention(backbone: dict[str, Any]) -> dict[str, Any]:
    """Settings of attention that are at their default in most backbones; those that are not."""
    theta, scaling = rope(backbone)
    others = {
        "rope": scaling,
        "attention_bias": backbone.get("attention_bias"),
        "sliding_window": backbone.get("sliding_window") if backbone.get("use_sliding_window") else None,
    }
    return {"rope_theta": theta} | {key: value for key, value in others.items() if value}


def _add_tensor(total: hashlib._Hash, name: str, tensor: Tensor) -> None:
    total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    total.update(tensor.contiguous().view(torch.uint8).numpy().data)


def _add_files(total: hashlib._Hash, paths: Iterable[Path]) -> None:
    """Hash the tensors of safetensors files in the order of their names: dtype, shape and bytes."""
    found: dict[str, tuple[str, Path, int, int]] = {}
    for path in paths:
        found |= {name: (kind, path, begin, end) for name, kind, begin, end in _header(path)}
    whole = sum(end - begin for _, _, begin, end in found.values()) <= _WHOLE_BYTES
    for name in sorted(found):
        kind, path, begin, end = found[name]
        total.update(f"{name} {kind}".encode())
        with path.open("rb") as file:
            for start, size in _spans(begin, end, whole):
                _add_bytes(total, file, start, size)


def _spans(begin: int, end: int, whole: bool) -> list[tuple[int, int]]:
    size = end - begin
    if whole or size <= _SAMPLES * _SAMPLE_BYTES:
        return [(begin, size)]
    return [(begin + (size - _SAMPLE_BYTES) * i // (_SAMPLES - 1), _SAMPLE_BYTES) for i in range(_SAMPLES)]


def _add_bytes(total: hashlib._Hash, file: BinaryIO, start: int, size: int) -> None:
    file.seek(start)
    while size > 0:
        block = file.read(min(size, 2**22))
        if not block:
            raise CheckpointError(f"{file.name} ends too early: the file is truncated, copy it again")
        total.update(block)
        size -= len(block)


def _header(path: Path) -> list[tuple[str, str, int, int]]:
    """(name, dtype and shape, first byte, byte after the last) of each tensor in a safetensors file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            total = path.stat().st_size
            if not 0 < length <= total - 8:
                raise ValueError(f"a header of {length} bytes in a file of {total}")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        tensors = [
            (
                name,
                f"{entry['dtype']} {entry['shape']}",
                *(8 + length + offset for offset in entry["data_offsets"]),
            )
            for name, entry in entries.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no complete safetensors file: {error}") from error
    if any(end > total for *_, end in tensors):
        raise CheckpointError(f"{path} ends too early: the file is truncated, copy it again")
    return tensors
