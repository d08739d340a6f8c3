"""Readers by the names that a command line gives them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import InvalidArgument, MissingExtra, NextMemError
from nextmem_agents.evaluation.readers.extractive import ExtractiveReader
from nextmem_agents.evaluation.readers.reader import Reader

KINDS = (
    "extractive, codec, transformers:FOLDER, langchain:PACKAGE:CLASS or langchain:PROVIDER:MODEL, "
    "llama-index:PACKAGE:CLASS, or http://HOST:PORT/v1"
)


def load_reader(
    name: str, codec: LatentCodec | None = None, options: Mapping[str, Any] | None = None
) -> Reader:
    """The reader of a name.

    Args:
        name: ``extractive``; ``codec`` (the codec's own backbone); ``transformers:FOLDER``; ``langchain:PACKAGE:CLASS``
            (a chat model, built from ``options``) or ``langchain:PROVIDER:MODEL`` (LangChain's ``init_chat_model``);
            ``llama-index:PACKAGE:CLASS``; or the address of an OpenAI-compatible API.
        codec: for ``codec``.
        options: keyword arguments of the reader, such as ``{"model": "gpt-4o-mini", "temperature": 0}``.

    Raises:
        CannotAnswer: ``codec``, and it was not trained to answer.
        InvalidArgument: an unknown name, or options that the reader does not take.
        DataError, MissingExtra, ReaderError: see the readers.
    """
    given = dict(options or {})
    kind, _, rest = name.partition(":")
    try:
        if name == "extractive":
            return ExtractiveReader(**given)
        if name == "codec":
            if codec is None:
                raise InvalidArgument("the reader 'codec' needs a codec")
            from nextmem_agents.evaluation.readers.codec import CodecReader

            return CodecReader(codec, **given)
        if kind in ("http", "https"):
            from nextmem_agents.evaluation.readers.server import ServerReader

            return ServerReader(name, **given)
        if kind == "transformers" and rest:
            from nextmem_agents.evaluation.readers.local import TransformersReader

            return TransformersReader(rest, **given)
        if kind == "langchain" and ":" in rest:
            return _langchain(rest, given)
        if kind == "llama-index" and ":" in rest:
            return _llama_index(rest, given)
    except TypeError as error:
        raise InvalidArgument(f"the reader {name!r} does not take these options: {error}") from error
    raise InvalidArgument(f"there is no reader {name!r}; readers are {KINDS}")


def _langchain(rest: str, options: dict[str, Any]) -> Reader:
    from nextmem_agents.evaluation.readers.in_langchain import LangChainReader

    found = _class(rest)
    if found is None:
        from langchain.chat_models import init_chat_model

        return LangChainReader(_built(lambda: init_chat_model(rest, **options), rest), rest, options)
    return LangChainReader(_built(lambda: found(**options), rest), rest, options)


def _llama_index(rest: str, options: dict[str, Any]) -> Reader:
    from nextmem_agents.evaluation.readers.in_llama_index import LlamaIndexReader

    found = _class(rest)
    if found is None:
        raise InvalidArgument(
            f"there is no class {rest!r}; give PACKAGE:CLASS, such as llama_index.llms.openai:OpenAI"
        )
    return LlamaIndexReader(_built(lambda: found(**options), rest), rest, options)


def _class(path: str) -> Any | None:
    """The class of ``package.module:Class``; None where there is none of that name."""
    module, _, name = path.partition(":")
    try:
        if importlib.util.find_spec(module) is None:
            return None
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def _built(make: Any, name: str) -> Any:
    try:
        return make()
    except NextMemError:
        raise
    except ImportError as error:
        raise MissingExtra(f"the reader {name!r} needs a package that is not installed: {error}") from error
    except Exception as error:  # providers and pydantic raise what they like
        raise InvalidArgument(f"the reader {name!r} cannot be made: {error}") from error
