"""A codec's folder on disk: what is in it, what identifies it, and how it is read and written.

    nextmem.json        codec configuration and fingerprint
    config.json         the backbone's architecture (transformers)
    model.safetensors   the backbone's weights, perhaps in shards
    tokenizer.json      the tokenizer (tokenizers)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from nextmem_agents.errors import CheckpointError
from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.config import CodecConfig

SHIPPED = Path(__file__).parent.parent / "checkpoints"
# What of the backbone's configuration changes numbers; the rest of config.json varies with transformers' version.
_ARCHITECTURE = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings", "hidden_act",
)  # fmt: skip
# Weights larger than this are not hashed again at every load: it would take longer than reading them.
_VERIFY_BYTES = 256 * 2**20


def find(name_or_folder: str | Path) -> Path:
    """The folder of a shipped codec by name, or a folder as given.

    Raises:
        CheckpointError: neither exists.
    """
    shipped = SHIPPED / str(name_or_folder)
    if isinstance(name_or_folder, str) and name_or_folder.isidentifier() and shipped.is_dir():
        return shipped
    folder = Path(name_or_folder).expanduser()
    if not folder.is_dir():
        names = sorted(path.parent.name for path in SHIPPED.glob("*/nextmem.json"))
        raise CheckpointError(
            f"there is no codec {str(name_or_folder)!r}: give a checkpoint folder, "
            f"or the name of a shipped codec ({', '.join(names) or 'none is installed'})"
        )
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the backbone.

    Raises:
        CheckpointError: there are none, or a shard that the index names is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}: the checkpoint is incomplete, copy it again")
    return [folder / name for name in names]


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    owner: dict[str, Path] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            owner |= dict.fromkeys(file.keys(), path)
    for name in sorted(owner):
        with safe_open(owner[name], framework="pt") as file:
            yield name, file.get_tensor(name)


def fingerprint(folder: Path, config: CodecConfig) -> str:
    """SHA-256 (hex) over the configuration, the backbone's architecture and weights, and the tokenizer.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    try:
        backbone = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is no complete codec checkpoint: {error}") from error
    settings = dataclasses.asdict(config)
    del settings["name"], settings["fingerprint"]
    architecture = {key: backbone.get(key) for key in _ARCHITECTURE}
    architecture["rope_theta"] = rope_theta(backbone)
    digest = hashlib.sha256()
    for part in (settings, architecture, {key: tokenizer.get(key) for key in sorted(tokenizer)}):
        digest.update(json.dumps(part, sort_keys=True).encode())
    for name, tensor in _tensors(weight_files(folder)):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def rope_theta(config: dict[str, Any]) -> float:
    """RoPE's base, which transformers 4 keeps in ``rope_theta`` and 5 in ``rope_parameters``."""
    return float(config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 10_000.0)


def verify(folder: Path, config: CodecConfig) -> None:
    """Compare a checkpoint with its recorded fingerprint (weights up to 256 MB; larger ones are trusted).

    Raises:
        CheckpointError: there is no fingerprint, or the files are not those it was taken from.
    """
    if config.fingerprint is None:
        raise CheckpointError(f"{folder / 'nextmem.json'} has no fingerprint; write the codec with save_pretrained")
    if sum(path.stat().st_size for path in weight_files(folder)) > _VERIFY_BYTES:
        return
    found = fingerprint(folder, config)
    if found != config.fingerprint:
        raise CheckpointError(
            f"{folder} was altered: its files hash to {found[:12]}, nextmem.json says {config.fingerprint[:12]}. "
            "Latents made with other weights cannot be read by these; restore the original folder"
        )


def load_backbone(folder: Path, *, device: str | torch.device, dtype: torch.dtype) -> Backbone:
    """The backbone of a checkpoint folder, from local files only.

    Raises:
        CheckpointError: no ``config.json``, another architecture than Qwen3, or unreadable weights.
    """
    weight_files(folder)
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if described.get("model_type") != "qwen3":
        raise CheckpointError(
            f"{folder} holds a {described.get('model_type')!r} model; a codec's backbone is of type 'qwen3'"
        )
    from transformers import Qwen3ForCausalLM
    from transformers.utils import logging

    # Loading a codec is no long work: transformers' bar over its tensors would only clutter an application.
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = Qwen3ForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the backbone in {folder} cannot be loaded: {error}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    return Backbone(model.to(device))


def write(folder: Path, config: CodecConfig, backbone: Any, weights: dict[str, Tensor], tokenizer_json: str) -> None:
    """Write a checkpoint folder from parts; ``backbone`` is the transformers configuration.

    Raises:
        CheckpointError: the folder exists and is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} exists and is not empty; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    backbone.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    dataclasses.replace(config, fingerprint=fingerprint(folder, config)).save(folder)
