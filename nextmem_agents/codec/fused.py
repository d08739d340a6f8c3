"""Qwen3's layers for inference, with less work around them: fused matrices, a static cache, no wrappers.

The numbers are transformers' up to the order of float32 sums (tests hold both against each other). What differs:

- the query, key and value matrices are one, and so are gate and up;
- a LoRA side path is merged into a copy of the weight it belongs to (W + s B A, in float32);
- keys and values are written into a cache of fixed size, not concatenated at every step;
- where only the last position is asked for, the last layer computes keys and values for all positions and the rest
  for that one alone;
- on a CPU, sums and norms between the products of weights in bfloat16 are float32. One that multiplies in bfloat16
  attends in it, too, and rounds what an adapter is merged into to it; one that emulates it multiplies as
  :class:`EmulatedBfloat16Matrix` says, with an adapter merged in float32;
- a text that is encoded may be multiplied and attended to in bfloat16 with float32 weights, too (``rounds``); the steps
  after it, of a row or few, gain nothing by it and multiply in float32.

An architecture, dtype or setting that is not known here has no fused form; then transformers' own forward is run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextmem_agents.codec.batches import at_once
from nextmem_agents.codec.cache import StaticCache, bias_of
from nextmem_agents.codec.layers import attend, rms_norm, scripted
from nextmem_agents.codec.lora import LoraLinear
from nextmem_agents.codec.matrix import EMULATES_BFLOAT16, MULTIPLIES_BFLOAT16, Matrix, matrix

# A merged adapter costs a copy of the weights; a larger backbone keeps its side path, and is not fused.
_MAX_MERGED_BYTES = 2**32
_ROPE_TYPES = ("default", "linear", "yarn", "llama3")  # those whose frequencies never change
_MAX_PACKED = 2**28  # values of the layers of which a second copy is kept for a few rows
_ROUNDED = 2**16  # values of a weight from which on rounding for a product in bfloat16 is worth its time
_PART = 512  # positions of a prefill computed together: their activations stay in the processor's cache
_SHARED = 1024  # positions of a prefill from which on threads have a part each


@dataclass(frozen=True, eq=False)
class _Layer:
    """Weights of one layer; biases are None in Qwen3's releases."""

    before_attention: Tensor
    qkv: Matrix
    qkv_bias: Tensor | None
    head_norms: Tensor  # [query heads + key heads, width]
    out: Matrix
    out_bias: Tensor | None
    before_mlp: Tensor
    gate_up: Matrix
    down: Matrix

    @property
    def matrices(self) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        """All of them."""
        return self.qkv, self.out, self.gate_up, self.down


class _Stack:
    """Layers, and what :func:`run_layers` takes of them: nothing where a matrix is more than its weight."""

    def __init__(self, layers: list[_Layer]):
        self.layers = layers
        self.weights: list[Tensor] = []
        self.biases: list[Tensor | None] = []
        if not all(each.is_plain for layer in layers for each in layer.matrices):
            return
        for layer in layers:
            qkv, out, gate_up, down = (each.weight for each in layer.matrices)
            self.weights += [
                layer.before_attention,
                qkv,
                layer.head_norms,
                out,
                layer.before_mlp,
                gate_up,
                down,
            ]
            self.biases += [layer.qkv_bias, layer.out_bias]


class FusedLayers:
    """The decoder layers and the final norm of one Qwen3 model on one device.

    Holds no state of its own between calls, so threads may share it.
    """

    def __init__(self, model: Any, rounds: bool = False):
        """From a Qwen3ForCausalLM for which :meth:`fits` is true.

        Linear modules without an adapter are pointed at their part of the fused matrices, so that these cost nothing.

        Args:
            model: the Qwen3ForCausalLM.
            rounds: keep a copy of float32 weights in bfloat16, for what a cache allows to be rounded.
        """
        config = model.config
        self.heads: int = config.num_attention_heads
        self.key_heads: int = config.num_key_value_heads
        self.width: int = model.model.layers[0].self_attn.head_dim
        modules = (module for layer in model.model.layers for module in _linears(layer).values())
        self._pack = sum(_plain(module).weight.numel() for module in modules) <= _MAX_PACKED
        layers = [self._layer(layer) for layer in model.model.layers]
        self.stack = _Stack(layers)
        self._run_layers = scripted()
        self.rounds = rounds and all(map(_gains_by_rounding, layers))
        self._rounded = _Stack([_rounded(layer) for layer in layers]) if self.rounds else self.stack
        native = MULTIPLIES_BFLOAT16 and model.model.norm.weight.dtype == torch.bfloat16
        self.norm: Tensor = model.model.norm.weight.float()
        # What attention computes in, and the cache holds.
        self._like = self.norm.new_empty(0, dtype=torch.bfloat16 if native else torch.float32)
        self.epsilon = self.norm.new_tensor(config.rms_norm_eps)
        rope = model.model.rotary_emb
        self._frequencies: Tensor = rope.inv_freq.to(self.norm.device, torch.float32)
        self._rope_scale: float = rope.attention_scaling

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether this model can be fused."""
        config = model.config
        if type(model).__name__ not in ("Qwen3ForCausalLM", "Qwen3Weights") or getattr(
            model, "is_loaded_in_4bit", False
        ):
            return False
        if getattr(model, "hf_device_map", None) or config._attn_implementation != "sdpa":
            return False
        if config.hidden_act != "silu" or set(config.layer_types) != {"full_attention"}:
            return False
        if getattr(model.model.rotary_emb, "rope_type", None) not in _ROPE_TYPES:
            return False
        dtype, device = model.model.norm.weight.dtype, model.model.norm.weight.device
        on_cpu = device.type == "cpu" and (EMULATES_BFLOAT16 or MULTIPLIES_BFLOAT16)
        if dtype != torch.float32 and not (dtype == torch.bfloat16 and on_cpu):
            return False
        adapted = size = 0
        for layer in model.model.layers:
            for module in _linears(layer).values():
                plain = _plain(module)
                if not is_linear(plain) or plain.weight.dtype != dtype:
                    return False
                adapted += plain is not module
                size += plain.weight.numel() * 4
        return not adapted or size <= _MAX_MERGED_BYTES

    def _layer(self, layer: Any) -> _Layer:
        attention = layer.self_attn
        linears = _linears(layer)
        queries = attention.q_norm.weight.float().expand(self.heads, -1)
        keys = attention.k_norm.weight.float().expand(self.key_heads, -1)
        qkv, qkv_bias = _fused([linears[name] for name in ("q_proj", "k_proj", "v_proj")])
        out, out_bias = _fused([linears["o_proj"]])
        return _Layer(
            before_attention=layer.input_layernorm.weight.float(),
            qkv=matrix(qkv, self._pack),
            qkv_bias=qkv_bias,
            head_norms=torch.cat([queries, keys]),
            out=matrix(out, self._pack),
            out_bias=out_bias,
            before_mlp=layer.post_attention_layernorm.weight.float(),
            gate_up=matrix(_fused([linears["gate_proj"], linears["up_proj"]])[0], self._pack),
            down=matrix(_fused([linears["down_proj"]])[0], self._pack),
        )

    def new_cache(self, capacity: int, rounds: bool) -> StaticCache:
        """An empty cache for so many positions."""
        return StaticCache(len(self.stack.layers), capacity, rounds)

    def _attended(self, cache: StaticCache) -> Tensor:
        """An empty tensor of the type that attention computes in."""
        like: Tensor = self._like.bfloat16() if cache.rounds and self.rounds else self._like
        return like

    def prefill(
        self,
        x: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: StaticCache | None,
        last: bool,
    ) -> Tensor:
        """Hidden states of a prompt; see :meth:`Backbone.hidden`. The cache, if any, is still empty."""
        batch, length = mask.shape
        layers = self._rounded if cache is not None and cache.rounds else self.stack
        bias = None
        padded = not bool(mask.all())
        if padded and length > 1:
            bias = bias_of(mask[:, None].expand(-1, length, -1).tril())[:, None]
        cos, sin = self._rotation(positions)
        if cache is not None:
            cache.allocate(batch, length, self.key_heads, self.width, self._attended(cache))

        def run(rows: slice) -> Tensor:
            part = None if cache is None else cache.rows(rows.start, rows.stop)
            rows_bias = None if bias is None else bias[rows]
            return self._run(layers, x[rows], cos[rows], sin[rows], rows_bias, part, causal=True, last=last)

        parts = at_once(run, _parts(batch, length, x.device))
        if cache is not None:
            cache.used = length
            cache.bias = bias_of(mask)[:, None, None] if padded else None
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def step(self, x: Tensor, positions: Tensor, cache: StaticCache) -> Tensor:
        """Hidden states [B, S, D] of S more positions, each of which sees all before it but padding."""
        size = x.shape[1]
        sight = cache.sight(size)
        out = self._run(self.stack, x, *self._rotation(positions), sight, cache, causal=False, last=False)
        cache.used += size
        return out

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine [B, S, 1, width] of rotary positions (Su et al., arXiv 2104.09864).

        The sine's first half is negative: then a rotation is x cos + (x with its halves exchanged) sin.
        """
        angles = positions[..., None].float() * self._frequencies
        cos, sin = angles.cos() * self._rope_scale, angles.sin() * self._rope_scale
        return torch.cat((cos, cos), -1)[:, :, None], torch.cat((-sin, sin), -1)[:, :, None]

    def _run(
        self,
        layers: _Stack,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        bias: Tensor | None,
        cache: StaticCache | None,
        causal: bool,
        last: bool,
    ) -> Tensor:
        dtype, length, x = x.dtype, x.shape[1], x.float()
        last = last and length > 1
        like = self._like if cache is None else self._attended(cache)
        bias = None if bias is None else bias.to(like.dtype)
        held, used, columns, end = [], 0, None, 0
        if cache is not None:
            end = cache.reserve(length)
            held, used, columns = cache.held, cache.used, cache.columns
        if layers.weights:
            x = self._run_layers(
                x, cos, sin, bias, causal, last, held, used, columns, end,
                layers.weights, layers.biases, self.epsilon, like, self.heads,
            )  # fmt: skip
            return rms_norm(x, self.norm, self.epsilon).to(dtype)
        for i, layer in enumerate(layers.layers):
            split = layer.qkv.times(rms_norm(x, layer.before_attention, self.epsilon))
            if layer.qkv_bias is not None:
                split += layer.qkv_bias
            only_last = last and i == len(layers.layers) - 1
            mixed = attend(
                split, cos, sin, layer.head_norms, self.epsilon, like, self.heads, bias, causal, only_last,
                held[i] if held else None, used, columns, end,
            )  # fmt: skip
            x = layer.out.times_plus(mixed, x[:, -1:] if only_last else x)
            if layer.out_bias is not None:
                x += layer.out_bias
            gate, up = layer.gate_up.product(rms_norm(x, layer.before_mlp, self.epsilon)).chunk(2, -1)
            x = layer.down.times_plus(F.silu(gate).mul_(up), x)
        return rms_norm(x, self.norm, self.epsilon).to(dtype)


def _parts(batch: int, length: int, device: torch.device) -> list[slice]:
    """The rows of a prompt [B, S] in parts of like size.

    On several threads of a CPU a part each is 1.1 times as fast as together on one part after the other (82M
    parameters, 32 rows of 129): no thread waits for the others after every product.
    """
    count = math.ceil(batch * length / _PART)
    if device.type == "cpu" and batch * length >= _SHARED:
        threads = torch.get_num_threads()
        count = math.ceil(count / threads) * threads
    count = min(count, batch)
    return [slice(i * batch // count, (i + 1) * batch // count) for i in range(count)]


def _gains_by_rounding(layer: _Layer) -> bool:
    weights = [each.weight for each in layer.matrices]
    return all(weight.dtype == torch.float32 and weight.numel() >= _ROUNDED for weight in weights)


def _rounded(layer: _Layer) -> _Layer:
    """The layer with its weights in bfloat16."""

    def one(found: Matrix) -> Matrix:
        return matrix(found.weight.bfloat16().t().contiguous().t(), pack=False)

    return replace(
        layer, qkv=one(layer.qkv), out=one(layer.out), gate_up=one(layer.gate_up), down=one(layer.down)
    )


def is_linear(module: Any) -> bool:
    """Whether a module computes x Wᵀ + b from a plain weight; bitsandbytes' subclasses do not."""
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def _linears(layer: Any) -> dict[str, Any]:
    attention, mlp = layer.self_attn, layer.mlp
    return {name: getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")} | {
        name: getattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj")
    }


def _plain(module: Any) -> Any:
    return module.linear if isinstance(module, LoraLinear) else module


@torch.no_grad()
def _fused(modules: list[Any]) -> tuple[Tensor, Tensor | None]:
    """Weights of linear modules beside one another, [in, out], and their biases.

    One row times a float32 matrix that is contiguous in this layout is up to twice as fast as in that of
    ``nn.Linear``, [out, in]; in bfloat16 only the latter is fast.
    """
    plain = [_plain(module) for module in modules]
    biases = None if plain[0].bias is None else torch.cat([linear.bias for linear in plain]).float()
    if any(isinstance(module, LoraLinear) for module in modules):
        merged = torch.cat([_merged(module) for module in modules])
        if MULTIPLIES_BFLOAT16 and plain[0].weight.dtype == torch.bfloat16:
            return merged.bfloat16().t(), biases
        return merged.t().contiguous(), biases
    weight = torch.cat([linear.weight for linear in plain]).t()
    if weight.dtype == torch.float32:
        weight = weight.contiguous()
    begin = 0
    for linear in plain:
        linear.weight.data = weight[:, begin : begin + linear.out_features].t()
        begin += linear.out_features
    return weight, biases


def _merged(module: Any) -> Tensor:
    if not isinstance(module, LoraLinear):
        weight: Tensor = module.weight
        return weight.float()
    linear: Any = module.linear
    merged: Tensor = linear.weight.float() + (module.b.float() @ module.a.float()) * module.scale
    return merged
