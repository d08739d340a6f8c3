"""Whether this processor computes in bfloat16 or only emulates it."""

from __future__ import annotations

import torch


def has_fast_bfloat16() -> bool:
    """Whether bfloat16 pays on this CPU: without AVX-512 torch emulates it, fifty times slower than float32."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
