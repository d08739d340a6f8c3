"""Counting tokens without ever downloading an encoding."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

DEFAULT_ENCODING = "o200k_base"
# The file behind each of tiktoken's encodings (those of two files, gpt2's, are left to the fallback).
_FILES = {
    "o200k_base": "o200k_base",
    "o200k_harmony": "o200k_base",
    "cl100k_base": "cl100k_base",
    "p50k_base": "p50k_base",
    "p50k_edit": "p50k_base",
    "r50k_base": "r50k_base",
}
_CHARACTERS_PER_TOKEN = 3  # of an estimate: English has about four, so that budgets are kept elsewhere too
_environment = threading.Lock()


@dataclass(frozen=True)
class TokenCounter:
    """A way of counting tokens.

    Attributes:
        source: what counts: ``"tiktoken:o200k_base"``, ``"codec:mini"`` or ``"estimate"``.
        count: the tokens of a text; of an estimate, about so many.
    """

    source: str
    count: Callable[[str], int]

    def __call__(self, text: str) -> int:
        """The tokens of ``text``."""
        return self.count(text)


def token_counter(model: str | None = None, fallback: TokenCounter | None = None) -> TokenCounter:
    """The best counter that is on this machine.

    Args:
        model: the name of the model that will read the text; for one that tiktoken knows, its encoding. None
            for tiktoken's newest encoding.
        fallback: used where tiktoken does not know the model or the encoding's file is not here.

    Returns:
        tiktoken's counter, else ``fallback``, else an estimate from the number of characters.

    Examples:
        >>> token_counter("no-such-model")("three words here")
        6
        >>> token_counter("no-such-model").source
        'estimate'
    """
    encoding = DEFAULT_ENCODING if model is None else _encoding_of(model)
    found = None if encoding is None else _tiktoken(encoding)
    return found or fallback or TokenCounter("estimate", lambda text: -(-len(text) // _CHARACTERS_PER_TOKEN))


def _encoding_of(model: str) -> str | None:
    import tiktoken

    try:
        return tiktoken.encoding_name_for_model(model)
    except KeyError:  # tiktoken's word for a model it does not know
        return None


def _folder_with(file: str) -> Path | None:
    """A folder that already holds an encoding's file: the user's own, or the one inside llama-index-core."""
    candidates = [
        Path(os.environ[key]) for key in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR") if os.environ.get(key)
    ]
    package = importlib.util.find_spec("llama_index")
    if package is not None and package.submodule_search_locations:
        candidates += [Path(p) / "core/_static/tiktoken_cache" for p in package.submodule_search_locations]
    return next((folder for folder in candidates if (folder / file).is_file()), None)


@lru_cache(maxsize=8)
def _tiktoken(name: str) -> TokenCounter | None:
    """tiktoken's counter, or None where the encoding's file is not on this machine.

    tiktoken would fetch a missing file from the network, without a time-out; so it is only asked for one that is
    there.
    """
    if name not in _FILES:
        return None
    address = f"https://openaipublic.blob.core.windows.net/encodings/{_FILES[name]}.tiktoken"
    # The name under which tiktoken caches what it fetched from an address.
    folder = _folder_with(hashlib.sha1(address.encode()).hexdigest())  # noqa: S324 - a file name, no signature
    if folder is None:
        return None
    import tiktoken

    with _environment:  # tiktoken takes the folder from the environment alone
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
        try:
            encoding = tiktoken.get_encoding(name)
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before
    return TokenCounter(f"tiktoken:{name}", lambda text: len(encoding.encode_ordinary(text)))
