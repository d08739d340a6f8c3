"""Qwen3's layers as functions of tensors alone, so that TorchScript can run them without Python's lock.

A layer is some fifty small operators, and each gives Python's lock away and takes it again. Two threads with a batch
each then wait for one another after every one, and few rows take both as long as they take one alone after the other.
As TorchScript all layers are one call: two threads do twice the work of one, and a single step takes a tenth less.
torch calls TorchScript deprecated, since compilers replace it; but these need a C++ compiler where they run. Where a
torch has it no more, the same functions run as Python.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nextmem_agents.codec.matrix import product, product_plus

_log = logging.getLogger(__name__)
_compiling = threading.Lock()


def _renew_lock() -> None:
    global _compiling
    _compiling = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def rms_norm(x: Tensor, weight: Tensor, epsilon: Tensor) -> Tensor:
    """w x / sqrt(mean(x²) + ε) over the last dimension; torch's own takes more and slower steps on a CPU."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return (x * torch.addcmul(epsilon, norm, norm, value=1 / x.shape[-1]).rsqrt_()).mul_(weight)


def attend(
    split: Tensor,
    cos: Tensor,
    sin: Tensor,
    head_norms: Tensor,
    epsilon: Tensor,
    like: Tensor,
    heads: int,
    bias: Tensor | None,
    causal: bool,
    last: bool,
    held: Tensor | None,
    used: int,
    columns: Tensor | None,
    end: int,
) -> Tensor:
    """What each position takes from those it sees, [B, S, heads * width]; of the last position alone, [B, 1, …].

    Args:
        split: queries, keys and values beside one another, [B, S, (heads + 2 key heads) * width].
        cos: [B, S, 1, width], of rotary positions.
        sin: [B, S, 1, width], its first half negative.
        head_norms: weights of the norms of queries and keys, [heads + key heads, width].
        epsilon: of the norms.
        like: of the type to attend in.
        heads: of queries.
        bias: added to the scores.
        causal: whether a position sees those before it alone, where there is no bias.
        last: only the last position asks.
        held: a cache's keys and values of this layer, [2, B, key heads, capacity, width], which are written to.
        used: the first column that is written, where none are named.
        columns: int64 [B, S], where each position is written.
        end: the columns that are seen.
    """
    width, rotated = cos.shape[-1], head_norms.shape[0]
    split = split.view(split.shape[0], split.shape[1], -1, width)
    both = rms_norm(split[:, :, :rotated], head_norms, epsilon)
    both = torch.addcmul(both * cos, both.roll(width // 2, -1), sin).to(like.dtype)
    queries, keys, values = both[:, :, :heads], both[:, :, heads:], split[:, :, rotated:].to(like.dtype)
    if held is None:
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    else:
        if columns is None:
            held[0, :, :, used:end] = keys.transpose(1, 2)
            held[1, :, :, used:end] = values.transpose(1, 2)
        else:
            rows = torch.arange(columns.shape[0])[:, None]
            held[0][rows, :, columns] = keys
            held[1][rows, :, columns] = values
        keys, values = held[0, :, :, :end], held[1, :, :, :end]
    if last:
        queries = queries[:, -1:]
        bias = None if bias is None else bias[:, :, -1:]
    mixed = F.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys,
        values,
        attn_mask=bias,
        is_causal=causal and bias is None and queries.shape[1] > 1,
        enable_gqa=heads * 2 != rotated,
    )
    return mixed.transpose(1, 2).flatten(2)


def run_layers(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    bias: Tensor | None,
    causal: bool,
    last: bool,
    held: list[Tensor],
    used: int,
    columns: Tensor | None,
    end: int,
    weights: list[Tensor],
    biases: list[Tensor | None],
    epsilon: Tensor,
    like: Tensor,
    heads: int,
) -> Tensor:
    """All layers one after another, before the final norm: float32 [B, S, D], or [B, 1, D] of the last position.

    Args:
        x: float32 [B, S, D].
        cos: see :func:`attend`; so for the others that are not named here.
        sin: …
        bias: …
        causal: …
        last: only the last position is asked for.
        held: a cache's tensors of each layer; none: there is no cache.
        used: …
        columns: …
        end: …
        weights: of each layer the norm before attention, [queries, keys, values], the norms of heads, the output, the
            norm before the MLP, [gate, up], down; matrices are [in, out].
        biases: of each layer those of [queries, keys, values] and of the output.
        epsilon: …
        like: …
        heads: …
    """
    final = len(weights) // 7 - 1
    for i in range(final + 1):
        before_attention, qkv, head_norms, out, before_mlp, gate_up, down = weights[7 * i : 7 * i + 7]
        qkv_bias, out_bias = biases[2 * i : 2 * i + 2]
        split = product(rms_norm(x, before_attention, epsilon), qkv).float()
        if qkv_bias is not None:
            split = split + qkv_bias
        only_last = last and i == final
        of_layer = held[i] if len(held) > 0 else None
        mixed = attend(
            split,
            cos,
            sin,
            head_norms,
            epsilon,
            like,
            heads,
            bias,
            causal,
            only_last,
            of_layer,
            used,
            columns,
            end,
        )
        x = product_plus(mixed, out, x[:, -1:] if only_last else x)
        if out_bias is not None:
            x = x + out_bias
        gate, up = product(rms_norm(x, before_mlp, epsilon), gate_up).chunk(2, -1)
        x = product_plus(F.silu(gate).mul_(up), down, x)
    return x


def scripted() -> Callable[..., Tensor]:
    """:func:`run_layers` as TorchScript; itself where this torch has none, or it fails."""
    with _compiling:  # what ignores warnings does so for all threads
        return _compiled()


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    if not hasattr(torch.jit, "script"):
        return run_layers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            compiled = torch.jit.script(run_layers)
    except Exception as error:  # of many kinds; one is that the sources are not there, as in frozen programs
        _log.info("TorchScript cannot compile the codec's layers, which run as Python: %s", error)
        return run_layers

    def run(*given: object) -> Tensor:
        # To optimise it takes longer than it gains, and more memory.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            found: Tensor = compiled(*given)
        return found

    return run
