"""The paper's released checkpoints, as they are: two adapter folders, a table of embeddings, and Qwen3-8B.

The one place that reads a pickle, and only tensors from it. What the released code does, in our words: two
tokens follow the tokenizer's last one; their rows in the embedding matrix become those of the words "repeat"
and "end"; a trained table is added where they stand in a prompt. Latents: 15 whatever the length; positions
are consecutive; hidden states are fed back as they are.
"""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nextmem_agents.codec import checkpoint, tokens
from nextmem_agents.codec.checkpoint import Parts, check_architecture
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.fingerprint import digest, read_json, weight_files
from nextmem_agents.codec.lora import LoraAdapter
from nextmem_agents.codec.projection import reduced
from nextmem_agents.codec.special_tokens import SpecialTokens
from nextmem_agents.codec.tokens import CodecTokenizer
from nextmem_agents.errors import CheckpointError

TABLE_FILE = "special_tokens_DTOKENS.pt"
START_OF_DECODE, END_OF_MEMORY = "<|start_of_document|>", "<|end_of_memory|>"
# Each added token starts out as this word's embedding.
_LIKE = {START_OF_DECODE: "repeat", END_OF_MEMORY: "end"}
LATENTS = 15


def read_official(
    base: str | Path, stage_1: str | Path, stage_2: str | Path, *, allow_download: bool = False
) -> tuple[CodecConfig, Parts]:
    """Configuration and parts of a codec in the released folders.

    Args:
        base: Qwen3-8B: a folder, or a hub id that is in the local cache.
        stage_1: folder of the decoder's adapter and of ``special_tokens_DTOKENS.pt``
            (released: ``stage_1_checkpoint-3092``).
        stage_2: folder of the encoder's adapter (released: ``stage_2_checkpoint-15``).
        allow_download: fetch a backbone that the local cache lacks.

    Raises:
        CheckpointError: a folder or file is missing or damaged, the tokenizer lacks a token, or an adapter or
            the table is of another backbone.
    """
    folder, decoder, encoder = checkpoint.find(base, allow_download), Path(stage_1), Path(stage_2)
    for path in (decoder, encoder):
        if not (path / "adapter_config.json").is_file():
            raise CheckpointError(
                f"{path} holds no adapter_config.json: give the released folders stage_1_checkpoint-3092 and "
                "stage_2_checkpoint-15, or train adapters with `nextmem train`"
            )
    try:
        base_tokenizer = (folder / tokens.FILE).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no readable {tokens.FILE}: {error}") from error
    tokenizer_json = tokens.with_added_tokens(base_tokenizer, list(_LIKE))
    tokenizer = CodecTokenizer.parse(tokenizer_json, str(folder / tokens.FILE))
    config = CodecConfig(
        name=f"{Path(base).name}-nextmem-official",
        start_of_decode=tokenizer.control(START_OF_DECODE),
        end_of_text=tokenizer.control("<|endoftext|>"),
        end_tokens=(tokenizer.control("<|im_end|>"),),
        tokens_per_latent=None,
        fixed_latents=LATENTS,
        positions="consecutive",
        quantization="per_dimension",
        index_dimensions=reduced(_hidden_size(folder)),
        answer_layout="released",
        adapters=True,
        backbone=str(folder.resolve()) if Path(base).expanduser().is_dir() else str(base),
    )
    special = _special_tokens(folder, decoder / TABLE_FILE, tokenizer)
    parts = Parts(folder, tokenizer_json, (decoder, encoder), special)
    _check_adapters(parts)
    return dataclasses.replace(config, fingerprint=digest(config, parts)), parts


def _hidden_size(backbone: Path) -> int:
    found = read_json(backbone / "config.json").get("hidden_size")
    return found if isinstance(found, int) else 0


def convert_official(
    base: str | Path,
    stage_1: str | Path,
    stage_2: str | Path,
    target: str | Path,
    *,
    copy_backbone: bool = False,
    allow_download: bool = False,
) -> None:
    """Write the released folders as a checkpoint of ours: JSON and safetensors, no pickle, the same
    fingerprint.

    Args:
        base: see :func:`read_official`, like ``stage_1``, ``stage_2`` and ``allow_download``.
        stage_1: the decoder's folder.
        stage_2: the encoder's folder.
        target: a new folder.
        copy_backbone: put the backbone into ``target`` too (16 GB for Qwen3-8B) in place of its folder or hub
            id.
        allow_download: fetch a backbone that the local cache lacks.

    Raises:
        CheckpointError: see :func:`read_official`; or ``target`` exists and is not empty.
    """
    config, parts = read_official(base, stage_1, stage_2, allow_download=allow_download)
    checkpoint.save(Path(target), config, parts, copy_backbone=copy_backbone)


def _special_tokens(base: Path, table_file: Path, tokenizer: CodecTokenizer) -> SpecialTokens:
    rows: list[int] = []
    for content, word in _LIKE.items():
        ids = tokenizer.encode([word])[0]
        if len(ids) != 1:
            raise CheckpointError(
                f"the tokenizer in {base} has no token {word!r}, which {content} starts from: it is not "
                f"Qwen3's"
            )
        rows += ids
    embeddings = _embedding_rows(base, rows)
    try:
        stored = torch.load(table_file, map_location="cpu", weights_only=True)
        additions = stored["special_input_embeddings"]["weight"]
    except (
        OSError,
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise CheckpointError(
            f"{table_file} cannot be read as the released table of embeddings: {error}"
        ) from error
    # The third row is a dummy that the released code multiplies by zero.
    if not isinstance(additions, Tensor) or additions.shape != (len(rows) + 1, embeddings.shape[1]):
        raise CheckpointError(
            f"{table_file} holds {tuple(getattr(additions, 'shape', ()))} values, not {len(rows) + 1} rows "
            f"of the "
            f"backbone's {embeddings.shape[1]}: it belongs to another one"
        )
    tokens_added = torch.tensor([tokenizer.control(content) for content in _LIKE])
    return SpecialTokens(tokens_added, embeddings, additions[: len(rows)].contiguous())


def _embedding_rows(base: Path, rows: list[int]) -> Tensor:
    name = "model.embed_tokens.weight"
    try:
        for path in weight_files(base):
            with safe_open(path, framework="pt") as file:
                if name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                    table = file.get_slice(name)
                    return torch.cat([table[row : row + 1] for row in rows])
    except (OSError, SafetensorError, IndexError) as error:
        raise CheckpointError(f"the backbone in {base} cannot be read: {error}") from error
    raise CheckpointError(f"the backbone in {base} has no {name}: it is not Qwen3")


def _check_adapters(parts: Parts) -> None:
    """Compare the adapters with the backbone's shapes, without its weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    described = check_architecture(parts.backbone)
    with torch.device("meta"):
        model = Qwen3ForCausalLM(Qwen3Config(**described))
    for folder in parts.adapters or ():
        LoraAdapter.read(folder).check(model)
