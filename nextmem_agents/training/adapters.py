"""LoRA adapters that learn, through PEFT, on a frozen backbone; the backbone may be in 4 bits (QLoRA).

    stage 1   one tree, backbone + stage-1 LoRA, in both roles
    stage 2   decoder: backbone + stage 1, frozen; encoder: a second tree over the same weights, + stage-2 LoRA

Two trees rather than one whose adapter is switched on and off: gradient checkpointing computes the decoder again
during the backward pass, when the switch would stand on the encoder's side.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from nextmem_agents.codec import lora
from nextmem_agents.codec.backbone import shared_view
from nextmem_agents.codec.checkpoint import Parts
from nextmem_agents.codec.lora import LoraAdapter
from nextmem_agents.codec.roles import Placement, load_roles, pack_for_cpu
from nextmem_agents.codec.special_tokens import SpecialTokens
from nextmem_agents.errors import InvalidArgument, MissingExtra
from nextmem_agents.training.loop import LoopConfig, checkpoint_activations
from nextmem_agents.training.run_state import writing

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every linear module of a Qwen3 layer."""


@dataclass(frozen=True)
class AdapterConfig(LoopConfig):
    """A LoRA adapter on a pretrained backbone, besides what :class:`LoopConfig` documents.

    Attributes:
        lora_rank, lora_alpha: r and α of LoRA (paper: 16 and 32).
        lora_targets: names of the linear modules that it adapts.
        dtype: of the frozen weights.
        load_in_4bit: keep the frozen weights in NF4, through bitsandbytes (QLoRA): 8B parameters take 5.5 GB.
    """

    lora_rank: int = 16
    lora_alpha: int = 32
    lora_targets: tuple[str, ...] = LINEAR
    dtype: Literal["float32", "bfloat16"] = "float32"
    load_in_4bit: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_rank < 1 or self.lora_alpha <= 0:
            raise InvalidArgument("lora_rank is at least 1, lora_alpha above 0")
        if not self.lora_targets or (odd := sorted(set(self.lora_targets) - set(LINEAR))):
            raise InvalidArgument(
                f"lora_targets are some of {list(LINEAR)}, not {odd if self.lora_targets else []}"
            )


@dataclass(frozen=True)
class LatentConfig(AdapterConfig):
    """How a text becomes latents, besides what :class:`AdapterConfig` and :class:`LoopConfig` document.

    Attributes:
        tokens_per_latent: text tokens that one latent stands for; None with ``fixed_latents``.
        fixed_latents: latents of every chunk, whatever its length (paper: 15).
        block_tokens: text tokens that each of ``fixed_latents`` replaces while there is text (paper: 16).
        latent_scale: scalar between a hidden state and the input embedding made of it (paper: 1). None matches the
            size of the backbone's embeddings, which a small backbone needs.
        corruption, latent_noise: see :class:`~nextmem_agents.training.substitution.Substitution`.
    """

    tokens_per_latent: int | None = 8
    fixed_latents: int | None = None
    block_tokens: int = 16
    latent_scale: float | None = 1.0
    corruption: float = 0.0
    latent_noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.tokens_per_latent is None) == (self.fixed_latents is None):
            raise InvalidArgument(
                "give exactly one of tokens_per_latent and fixed_latents, and null for the other"
            )
        if self.block_tokens < 1:
            raise InvalidArgument("block_tokens is at least 1")

    @property
    def block(self) -> int:
        """Text tokens that one latent replaces."""
        return self.tokens_per_latent or self.block_tokens

    def scale(self, model: Any) -> float:
        """The scalar, for a backbone."""
        return matched_scale(model) if self.latent_scale is None else self.latent_scale


def load_backbone(folder: Path, special: SpecialTokens | None, config: AdapterConfig, device: Any) -> Any:
    """The frozen ``Qwen3ForCausalLM`` of a folder, the rows of added tokens in place.

    Raises:
        CheckpointError: it is no Qwen3, or damaged, or has no row for an added token.
        MissingExtra: 4 bits without bitsandbytes.
    """
    placement = Placement(device=str(device), dtype=config.dtype, load_in_4bit=config.load_in_4bit)
    model = load_roles(Parts(folder, "{}", None, special), placement)[0].model
    pack_for_cpu(model, False)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    return model


def with_new_adapter(model: Any, config: AdapterConfig) -> Any:
    """PEFT's model around ``model``, which has the new adapter in it from now on; only the adapter learns."""
    peft = _peft()
    with torch.random.fork_rng(), _older_names():
        torch.manual_seed(config.seed)
        return peft.get_peft_model(model, _lora(config))


def decoder_and_encoder(model: Any, stage_1: Path, config: AdapterConfig) -> tuple[Any, Any, Any]:
    """Stage 2's two roles on one backbone: the frozen decoder, the encoder, and PEFT's model around the encoder.

    Stage 1 is merged into the weights, as when the codec is loaded; where they are in 4 bits it stays beside them.

    Raises:
        CheckpointError: the adapter in ``stage_1`` is damaged or of another backbone.
    """
    adapter = LoraAdapter.read(stage_1)
    adapter.check(model)
    if not config.load_in_4bit:
        adapter.merge(model)
        encoder = shared_view(model)
        return model, encoder, with_new_adapter(encoder, config)
    encoder = shared_view(model)
    adapter.attach(model)
    peft = _peft()
    with torch.random.fork_rng(), _older_names():
        wrapped = peft.PeftModel.from_pretrained(encoder, str(stage_1), adapter_name="stage_1")
        torch.manual_seed(config.seed)
        wrapped.add_adapter("default", _lora(config))
    wrapped.base_model.set_adapter(["stage_1", "default"])
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(".default." in name)
    return model, encoder, wrapped


def save_adapter(wrapped: Any, folder: Path) -> None:
    """Write the adapter that learned as PEFT does: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    with writing(folder):
        wrapped.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)
        # The path of the backbone on this machine is nobody's business, and the codec's configuration has it.
        described = folder / lora.CONFIG_FILE
        values = json.loads(described.read_text(encoding="utf-8")) | {"base_model_name_or_path": None}
        described.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        for path in folder.iterdir():
            if path.name not in (lora.CONFIG_FILE, lora.WEIGHTS_FILE):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def matched_scale(model: Any) -> float:
    """The scalar that gives a final-normed hidden state the root mean square of a token's embedding.

    A large backbone reads its own hidden states as they are (the paper: 1); to a small one they are a hundred
    times too large.
    """
    embeddings = model.get_input_embeddings().weight.detach().float()
    norm = model.model.norm.weight.detach().float()
    return round(float(embeddings.square().mean().sqrt() / norm.square().mean().sqrt()), 6)


def _lora(config: AdapterConfig) -> Any:
    return _peft().LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=list(config.lora_targets),
        task_type="CAUSAL_LM",
    )


@contextmanager
def _older_names() -> Iterator[None]:
    """PEFT asks a model for attributes that transformers 5 has under newer names, with a warning at each."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*is deprecated and will be removed in v6", category=FutureWarning
        )
        yield


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtra("LoRA training needs peft: pip install 'nextmem-agents[train]'") from error
    return peft


def trained_count(module: nn.Module) -> int:
    """How many parameters learn."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
