"""Counting tokens without ever downloading an encoding."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

_ENCODING = "o200k_base"
# tiktoken names a cached encoding by the SHA-1 of its address.
_FILE = hashlib.sha1(  # noqa: S324 - a file name, not a signature
    f"https://openaipublic.blob.core.windows.net/encodings/{_ENCODING}.tiktoken".encode()
).hexdigest()
_environment = threading.Lock()


def _cache_folder() -> Path | None:
    """A folder that already holds the encoding's file: the user's own, or the one inside llama-index-core."""
    candidates = [
        Path(os.environ[key]) for key in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR") if os.environ.get(key)
    ]
    package = importlib.util.find_spec("llama_index")
    if package is not None and package.submodule_search_locations:
        candidates += [Path(p) / "core/_static/tiktoken_cache" for p in package.submodule_search_locations]
    return next((folder for folder in candidates if (folder / _FILE).is_file()), None)


@lru_cache(maxsize=1)
def tiktoken_counter() -> Callable[[str], int] | None:
    """A counter of o200k_base tokens, or None where its file is not on this machine.

    tiktoken would fetch a missing file from the network, without a time-out; so it is only asked for one that is
    there.
    """
    folder = _cache_folder()
    if folder is None:
        return None
    import tiktoken

    with _environment:  # tiktoken takes the folder from the environment alone
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
        try:
            encoding = tiktoken.get_encoding(_ENCODING)
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before
    return lambda text: len(encoding.encode_ordinary(text))
