"""From a codec's parts to its roles: encoder, decoder and perhaps a reader, views of one set of weights.

decoder = backbone + stage 1; encoder = decoder + stage 2, as a side path. Stage 1 is merged into the weights.
Where they are in 4 bits it stays beside them too: rounding the sum to 4 bits again would undo most of the
adapter.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch

from nextmem_agents.codec.backbone import Backbone, shared_view
from nextmem_agents.codec.checkpoint import Parts, check_architecture
from nextmem_agents.codec.fingerprint import weight_files
from nextmem_agents.codec.lora import LoraAdapter
from nextmem_agents.codec.matrix import GAINS_BY_BFLOAT16
from nextmem_agents.codec.weights import Qwen3Weights, portable
from nextmem_agents.errors import CheckpointError, InvalidArgument, MissingExtra

# Loading less than this takes a second or two, where a progress bar would only clutter an application.
_QUIET_BYTES = 2**30
# What divides the width and the height of a 4-bit weight that bitsandbytes can repack.
_PACKED_COLUMNS, _PACKED_ROWS = 64, 32


def has_device(device: str | torch.device) -> bool:
    """Whether this machine has a device of the kind.

    Raises:
        InvalidArgument: it is no device's name.
    """
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise InvalidArgument(f"device {device!r:.80} is none that torch knows: {error}") from error
    if kind == "cuda":
        return torch.cuda.is_available()
    return kind != "mps" or torch.backends.mps.is_available()


def check_device(device: str | torch.device) -> None:
    """Raise ``InvalidArgument`` if this machine has no such device."""
    if not has_device(device):
        raise InvalidArgument(
            f"there is no {device} device here that torch can use; leave device out for the CPU"
        )


@dataclass(frozen=True)
class Placement:
    """Where and how a backbone is loaded.

    Attributes:
        device: where the model runs; not used where ``device_map`` is given.
        dtype: of weights (in 4-bit: of what is computed with them) and activations; a ``torch.dtype`` or its
            name.
        device_map: transformers' argument of this name: spreads the layers over several devices.
        attn_implementation: transformers' argument of this name.
        load_in_4bit: weights in NF4, through bitsandbytes.
        encode_dtype: in which texts that are encoded are multiplied; None: as is fastest.
    """

    device: str | torch.device = "cpu"
    dtype: torch.dtype | str = torch.float32
    device_map: str | dict[str, Any] | None = None
    attn_implementation: str | None = None
    load_in_4bit: bool = False
    encode_dtype: torch.dtype | str | None = None

    def torch_dtype(self) -> torch.dtype:
        """The dtype.

        Raises:
            InvalidArgument: it is no floating-point type.
        """
        return _floating_point("dtype", self.dtype)

    def rounds(self) -> bool:
        """Whether a backbone in float32 multiplies texts that are encoded in bfloat16.

        Raises:
            InvalidArgument: ``encode_dtype`` is neither ``dtype`` nor bfloat16 beside float32.
        """
        dtype = self.torch_dtype()
        if self.encode_dtype is None:
            return GAINS_BY_BFLOAT16 and dtype == torch.float32
        found = _floating_point("encode_dtype", self.encode_dtype)
        if found == dtype:
            return False
        if (found, dtype) != (torch.bfloat16, torch.float32):
            raise InvalidArgument(
                f"encode_dtype {found} does not go with dtype {dtype}; give the same, or bfloat16 beside float32"
            )
        return True

    def arguments(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained``.

        Raises:
            InvalidArgument: an impossible device or dtype.
            MissingExtra: a package that they need is not installed.
        """
        found: dict[str, Any] = {"dtype": self.torch_dtype()}
        if self.device_map is None:
            check_device(self.device)
        if self.attn_implementation is not None:
            found["attn_implementation"] = self.attn_implementation
        if self.load_in_4bit:
            _need("bitsandbytes", "load_in_4bit=True", "bnb")
            from transformers import BitsAndBytesConfig

            found["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=self.torch_dtype(),
            )
        if self.device_map is not None or self.load_in_4bit:
            _need("accelerate", "device_map or load_in_4bit", "train")
            found["device_map"] = self.device_map if self.device_map is not None else {"": str(self.device)}
        return found


def _floating_point(argument: str, given: torch.dtype | str) -> torch.dtype:
    found = getattr(torch, given, None) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InvalidArgument(f"{argument} {given!r} is no floating-point type; give 'float32' or 'bfloat16'")
    return found


def _need(package: str, argument: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(f"{argument} needs {package}: pip install 'nextmem-agents[{extra}]'")


def load_roles(parts: Parts, placement: Placement) -> tuple[Backbone, Backbone, Backbone]:
    """Encoder, decoder and reader; the same object where no adapter tells them apart. Nothing is fetched.

    Raises:
        CheckpointError: another architecture than Qwen3, unreadable or missing weights, or adapters that do
            not fit.
        InvalidArgument: an impossible device or dtype.
        MissingExtra: see :meth:`Placement.arguments`.
    """
    model = _load_model(parts, placement)
    if placement.load_in_4bit:
        pack_for_cpu(model, placement.torch_dtype() == torch.bfloat16)
    if parts.special_tokens is not None:
        parts.special_tokens.place(model)
    if parts.adapters is None:
        both = Backbone(model, parts.special_tokens, fuse=True, rounds=placement.rounds())
        return both, both, _reader(both, parts)
    stage_1, stage_2 = (LoraAdapter.read(folder) for folder in parts.adapters)
    if placement.load_in_4bit:
        stage_1.attach(model)
    else:
        stage_1.merge(model)
    encoder = shared_view(model)
    stage_2.attach(encoder)
    decoder = Backbone(model, parts.special_tokens, fuse=True)
    # Released latents are those of the released code unless told otherwise.
    rounds = placement.encode_dtype is not None and placement.rounds()
    return Backbone(encoder, parts.special_tokens, True, rounds), decoder, _reader(decoder, parts)


def pack_for_cpu(model: Any, allowed: bool) -> None:
    """Say whether bitsandbytes may repack 4-bit weights in place on a CPU with AVX-512 BF16, as it does unasked.

    Products with repacked weights are fast, but computed in bfloat16, without a gradient, and not possible for every
    shape.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            fits = module.in_features % _PACKED_COLUMNS == 0 and module.out_features % _PACKED_ROWS == 0
            module.support_avx512bf16_for_cpu &= allowed and fits


def _reader(decoder: Backbone, parts: Parts) -> Backbone:
    if parts.reader is None:
        return decoder
    model = shared_view(decoder.model)
    LoraAdapter.read(parts.reader).attach(model)
    return Backbone(model, parts.special_tokens, fuse=True)


def _load_model(parts: Parts, placement: Placement) -> Any:
    described = check_architecture(parts.backbone)
    plain = Placement(placement.device, encode_dtype=placement.encode_dtype)
    if parts.adapters is None and parts.reader is None and placement == plain:
        placement.arguments()  # refuses an impossible device
        weights = Qwen3Weights.read(described, weight_files(parts.backbone))
        if weights is not None:
            return weights.to(placement.device)
    size = sum(path.stat().st_size for path in weight_files(parts.backbone))
    arguments = placement.arguments()
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    if size < _QUIET_BYTES:
        logging.disable_progress_bar()
    try:
        model, report = Qwen3ForCausalLM.from_pretrained(
            parts.backbone,
            config=Qwen3Config(**portable(described)),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **arguments,
        )
        if "device_map" not in arguments:
            model = model.to(placement.device)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the backbone in {parts.backbone} cannot be loaded: {error}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    # transformers fills what a file lacks with random numbers, and goes on.
    if wrong := sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind]):
        raise CheckpointError(
            f"the weights in {parts.backbone} do not fit its config.json: {len(wrong)} tensors are missing "
            f"or of "
            f"another shape, among them {wrong[0]}"
        )
    return model
