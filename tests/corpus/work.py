"""Work for worker processes that costs nothing to import."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def answering(number: int) -> Callable[[object], object]:
    """Answers with the piece and the worker's number; dies of ``"die"``."""
    return lambda piece: os.kill(os.getpid(), signal.SIGKILL) if piece == "die" else (piece, number)
