from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

import pytest
import torch
from torch import Tensor

SHARED = Path(__file__).parents[2].parent / "shared"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """These tensors are small: threads only get in each other's way on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["fp32", "bf16"])
def goldens(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    """Arrays recorded from the released code."""
    path = SHARED / "official" / f"goldens_{request.param}.safetensors"
    if not path.exists():
        pytest.skip(f"the recorded arrays are not at {path}")
    from safetensors.torch import load_file

    return dict(load_file(path))


@pytest.fixture(scope="session")
def seal() -> Callable[[bytes, bytes], bytes]:
    """Close a payload with the tag that the specification names, written here a second time."""

    def add_tag(body: bytes, binding: bytes) -> bytes:
        key = blake2b(binding, digest_size=32, person=b"nextmem payload").digest()
        return body + blake2b(body, key=key, digest_size=8).digest()

    return add_tag
