"""Latents for a vLLM server: memory blocks become ``prompt_embeds`` content parts.

The server is started on the backbone that reads the codec's latents (backbone + stage 1, merged), with
``vllm serve FOLDER --enable-prompt-embeds --served-model-name NAME``, where NAME is :func:`served_model_name`. A
content part is ``{"type": "prompt_embeds", "data": …}``, base64 of ``torch.save`` of a tensor [positions, hidden size];
the server renders its chat template around it (vLLM's documentation, "Prompt Embedding Inputs", Chat Completions API).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from langchain_core.messages import BaseMessage

from langchain_nextmem.blocks import memory_ids
from nextmem_agents.codec.chat import join_latents, memory_parts
from nextmem_agents.codec.generation import embed_prompt
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import CodecMismatch, InvalidArgument
from nextmem_agents.scope import Scope


def served_model_name(codec: LatentCodec) -> str:
    """The name under which a server serves a codec's backbone: with its fingerprint, so that no other is taken for it.

    Examples:
        >>> from nextmem_agents import LatentCodec
        >>> codec = LatentCodec.load("mini")
        >>> served_model_name(codec) == f"nextmem-mini-{codec.fingerprint[:12]}"
        True
    """
    return f"nextmem-{codec.config.name}-{codec.fingerprint[:12]}"


def with_prompt_embeds(
    messages: Sequence[BaseMessage], scope: Scope, *, model: str, ignore_positions: bool = False
) -> list[BaseMessage]:
    """Messages in which each memory block is a ``prompt_embeds`` part; they can go into ``ChatOpenAI`` as they are.

    Args:
        messages: with blocks of :func:`langchain_nextmem.memory_block`, or without.
        scope: whose memories the blocks name.
        model: the served model's name, which tells its codec.
        ignore_positions: send latents of a codec with aligned positions too. A server numbers positions one by one, so
            such a codec's latents do not stand there as it was trained; only to try the way out.

    Raises:
        CodecMismatch: the served model is not this codec's backbone.
        InvalidArgument: the codec's positions cannot be had on a server.
        MemoryNotFound: the scope has no memory of an id.
    """
    codec = scope.codec
    if model != served_model_name(codec):
        raise CodecMismatch(
            f"the server's model {model!r} is not the backbone of codec {codec.config.name!r}; serve that one with "
            f"--served-model-name {served_model_name(codec)}, or send the memories as text"
        )
    if codec.config.positions == "aligned" and not ignore_positions:
        raise InvalidArgument(
            f"codec {codec.config.name!r} places latents at aligned positions, and a server numbers them one by one; "
            "use a codec with consecutive positions, or send the memories as text"
        )
    return [_replaced(message, scope) for message in messages]


def prompt_embeds_part(scope: Scope, ids: Sequence[str]) -> dict[str, Any]:
    """The content part for memories: their dequantised latents as input embeddings, one memory after another."""
    codec = scope.codec
    parts = [
        part
        for memory in scope.get(list(ids))
        for part in memory_parts(
            codec, join_latents([memory.batch.latents(memory.index, codec)], codec.fingerprint)
        )
    ]
    return {"type": "prompt_embeds", "data": encoded(embed_prompt(codec, parts))}


def encoded(tensor: torch.Tensor) -> str:
    """Base64 of ``torch.save`` of a tensor, which a server reads with ``weights_only=True``."""
    buffer = io.BytesIO()
    # A copy: torch.save writes all of the storage that a view looks into.
    torch.save(tensor.detach().cpu().clone(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _replaced(message: BaseMessage, scope: Scope) -> BaseMessage:
    if isinstance(message.content, str):
        return message
    content: list[Any] = []
    for block in message.content:
        ids = None if isinstance(block, str) else memory_ids(block)
        content.append(block if ids is None else prompt_embeds_part(scope, ids))
    return message.model_copy(update={"content": content})
