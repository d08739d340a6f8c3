"""What a codec computes does not depend on what the process around it has told torch.

A text that is proven to come back has to come back in another process, too, where torch may be told otherwise. Of what
it can be told, three things reach into a codec: autocast, a default device, and products of float32 matrices in fewer
bits, which ``torch.set_float32_matmul_precision("medium")`` asks for and oneDNN grants on processors with AMX. That
last one moves a token's lead by up to .22 (`mini`), ten times the margin that repairs keep.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_AUTOCAST = ("cpu", "cuda", "mps")
_ONEDNN: Any = getattr(torch.backends.mkldnn, "matmul", None)  # since torch 2.9
_WHOLE = ("ieee", "none", "highest")  # products of float32 matrices in float32


class _WholeProducts:
    """Float32 products in float32 as long as any thread is inside: torch has one setting for all of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._disturbances = 0
        self._before: str | None = None  # what to go back to

    def __enter__(self) -> None:
        with self._lock:
            self._make_whole()
            self._inside += 1

    def disturbances(self) -> int:
        """How often somebody has set them otherwise while a thread was inside; they are whole again now."""
        with self._lock:
            self._make_whole()
            return self._disturbances

    def _make_whole(self) -> None:
        if (now := _precision()) not in _WHOLE:
            self._before = now
            _set_precision("ieee")
            self._disturbances += bool(self._inside)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside = max(0, self._inside - 1)
            if not self._inside:
                self._restore()

    def begin_anew(self) -> None:
        """In a forked child, where no other thread is inside any more."""
        self._lock, self._inside = threading.Lock(), 0
        self._restore()

    def _restore(self) -> None:
        if self._before is None:
            return
        before, self._before = self._before, None
        if _precision() in _WHOLE:  # nobody has set it meanwhile
            _set_precision("none")  # as the settings above it have it
            if _precision() != before:
                _set_precision(before)


_whole_products = _WholeProducts()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_whole_products.begin_anew)


@contextmanager
def own_settings() -> Iterator[None]:
    """Compute on the CPU unless told otherwise, without autocast, and multiply float32 in float32.

    A context manager, or a decorator. What it finds it leaves behind.

    Examples:
        >>> with torch.autocast("cpu", torch.bfloat16), own_settings():
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.float32
    """
    with ExitStack() as stack:
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_whole_products)
        yield


@contextmanager
def building() -> Iterator[None]:
    """:func:`own_settings` for making a codec: whatever the default type, whether or not tensors are to be inference
    ones, and without a draw from the caller's random numbers.

    The default type is the process's, and for as long as this takes float32 in all of its threads.
    """
    before = torch.get_default_dtype()
    with own_settings(), torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def disturbances() -> int:
    """How often, within :func:`own_settings`, another thread has set products to fewer bits; now they are whole again.

    What was computed between two calls with the same answer was computed in float32.
    """
    return _whole_products.disturbances()


def _precision() -> str:
    return torch.get_float32_matmul_precision() if _ONEDNN is None else str(_ONEDNN.fp32_precision)


def _set_precision(value: str) -> None:
    if _ONEDNN is not None:
        _ONEDNN.fp32_precision = value
    elif value != "none":
        torch.set_float32_matmul_precision("highest" if value == "ieee" else value)
