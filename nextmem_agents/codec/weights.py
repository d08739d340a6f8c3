"""A Qwen3's weights under transformers' names, read without transformers' model code.

Importing that code takes longer than everything else that a first recall does, and :class:`FusedLayers` has no need of
it. Where a caller wants the model itself, it is made then, over the same tensors.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nextmem_agents.codec.fingerprint import rope
from nextmem_agents.codec.own_settings import building


class _Linear(nn.Linear):
    """Without first values: they would be overwritten."""

    def reset_parameters(self) -> None:
        pass


class _Embedding(nn.Embedding):
    """Likewise."""

    def reset_parameters(self) -> None:
        pass


class _Norm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))


class _Attention(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.head_dim: int = config.head_dim
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        bias = config.attention_bias
        self.q_proj = _Linear(config.hidden_size, queries, bias=bias)
        self.k_proj = _Linear(config.hidden_size, keys, bias=bias)
        self.v_proj = _Linear(config.hidden_size, keys, bias=bias)
        self.o_proj = _Linear(queries, config.hidden_size, bias=bias)
        self.q_norm, self.k_norm = _Norm(self.head_dim), _Norm(self.head_dim)


class _Mlp(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.gate_proj = _Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = _Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = _Linear(config.intermediate_size, config.hidden_size, bias=False)


class _Layer(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.self_attn, self.mlp = _Attention(config), _Mlp(config)
        self.input_layernorm = _Norm(config.hidden_size)
        self.post_attention_layernorm = _Norm(config.hidden_size)


class _Model(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.embed_tokens = _Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = _Norm(config.hidden_size)


class Qwen3Weights(nn.Module):
    """The modules of a Qwen3ForCausalLM by its names, without a forward of their own."""

    def __init__(self, described: dict[str, Any]):
        """For a backbone's ``config.json``; the weights are empty, on the meta device."""
        super().__init__()
        self.described = described
        self.config = _config(described)
        with torch.device("meta"):
            self.model: Any = _Model(self.config)
            self.lm_head = _Linear(self.config.hidden_size, self.config.vocab_size, bias=False)
        theta, _ = rope(described)
        exponents = torch.arange(0, self.config.head_dim, 2, dtype=torch.float) / self.config.head_dim
        rotary: Any = SimpleNamespace(
            rope_type="default", inv_freq=1.0 / theta**exponents, attention_scaling=1.0
        )
        self.model.rotary_emb = rotary

    @classmethod
    def read(cls, described: dict[str, Any], files: list[Path]) -> Qwen3Weights | None:
        """Float32 weights of a backbone; None where transformers has to judge it: an uncommon setting, or a file that
        does not fit.
        """
        plain = rope(described)[1] is None and not described.get("use_sliding_window")
        kinds = set(described.get("layer_types") or ["full_attention"])
        if not plain or kinds != {"full_attention"} or described.get("hidden_act") != "silu":
            return None
        try:
            found = cls(described)
            state = {name: value.float() for path in files for name, value in load_file(path).items()}
            if described.get("tie_word_embeddings"):
                state["lm_head.weight"] = state["model.embed_tokens.weight"]
            if missing := found.load_state_dict(state, strict=False, assign=True).missing_keys:
                raise KeyError(missing[0])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
            return None
        return found

    def get_input_embeddings(self) -> nn.Module:
        """As in transformers."""
        embeddings: nn.Module = self.model.embed_tokens
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        """As in transformers."""
        return self.lm_head

    def as_transformers(self) -> Any:
        """A Qwen3ForCausalLM over the same tensors."""
        from transformers import Qwen3Config, Qwen3ForCausalLM

        config = Qwen3Config(**portable(self.described))
        with building():
            with torch.device("meta"):
                model = Qwen3ForCausalLM(config)
            # Its frequencies are no part of the state, and would stay without values.
            model.model.rotary_emb = type(model.model.rotary_emb)(config)
        model.load_state_dict(self.state_dict(), strict=False, assign=True)
        model.tie_weights()
        return model.to(self.lm_head.weight.device).eval().requires_grad_(False)


def portable(described: dict[str, Any]) -> dict[str, Any]:
    """A configuration in the spelling that transformers 4 and 5 both take."""
    theta, scaling = rope(described)
    others = {
        key: value for key, value in described.items() if key not in ("rope_parameters", "rope_scaling")
    }
    return others | {"rope_theta": theta} | ({} if scaling is None else {"rope_scaling": scaling})


def _config(described: dict[str, Any]) -> SimpleNamespace:
    heads = described["num_attention_heads"]
    defaults = {
        "num_key_value_heads": heads,
        "head_dim": described["hidden_size"] // heads,
        "attention_bias": False,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
    }
    layers = described["num_hidden_layers"]
    fixed = {"_attn_implementation": "sdpa", "layer_types": ["full_attention"] * layers}
    return SimpleNamespace(**{**defaults, **described, **fixed})
