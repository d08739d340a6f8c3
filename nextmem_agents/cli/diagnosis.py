"""What ``nextmem doctor`` looks at: the installation, the codec, the token files, the store; and what to do."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from nextmem_agents.cli.opening import is_server, is_store, location, opened
from nextmem_agents.cli.output import bytes_text
from nextmem_agents.codec import DEFAULT_CODEC
from nextmem_agents.errors import NextMemError

if TYPE_CHECKING:
    from nextmem_agents.codec.latent_codec import LatentCodec

Status = Literal["ok", "note", "bad"]

_REQUIRED = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "chromadb",
    "tiktoken",
    "numpy",
    "typer",
    "rich",
)
_EXTRAS = {
    "langchain": "langchain-core",
    "llama-index": "llama-index-core",
    "encryption": "cryptography",
    "mcp": "mcp",
    "train": "peft",
    "eval": "matplotlib",
    "bnb": "bitsandbytes",
    "ray": "ray",
}
_SENTENCE = "She moved to Lisbon in May 2024, to the house at 7 Rua da Bica, and pays 1,350 € a month."
_LITTLE_DISK = 1_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what it is, such as ``"package torch"``; stable, for scripts.
        status: ``"ok"``; ``"note"``, which works but is worth knowing; ``"bad"``, which does not work.
        detail: what was found.
        advice: what to do about it; empty where there is nothing to do.
    """

    subject: str
    status: Status
    detail: str
    advice: str = ""


def diagnose(store: str | None, codec: str | None, texts: bool = False) -> Iterator[Finding]:
    """Everything that ``doctor`` looks at, in its order."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield from _packages()
    loaded = None
    try:
        from nextmem_agents.codec.latent_codec import LatentCodec

        loaded = LatentCodec.load(codec or DEFAULT_CODEC)
    except (NextMemError, ImportError, OSError) as error:
        yield Finding("codec", "bad", str(error), "name another with --codec, or install the package anew")
    if loaded is not None:
        yield from _codec(loaded)
        yield from _tokens(loaded)
        yield from _devices(loaded)
    yield from _store(store, codec, loaded is not None, texts)


def _packages() -> Iterator[Finding]:
    for name in ("nextmem-agents", *_REQUIRED):
        version = _version(name)
        if version is None:
            yield Finding(
                f"package {name}", "bad", "not installed", "pip install --force-reinstall nextmem-agents"
            )
        else:
            yield Finding(f"package {name}", "ok", version)
    for extra, name in _EXTRAS.items():
        version = _version(name)
        if version is None:
            yield Finding(f"extra {extra}", "note", "not installed", f'pip install "nextmem-agents[{extra}]"')
        else:
            yield Finding(f"extra {extra}", "ok", f"{name} {version}")
    found = importlib.util.find_spec("opentelemetry") is not None
    detail = (
        "spans and metrics go to the configured provider" if found else "not installed; no spans, no metrics"
    )
    yield Finding("opentelemetry", "ok", detail)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _codec(codec: LatentCodec) -> Iterator[Finding]:
    from nextmem_agents.codec.exact import compress, decompress

    parameters = sum(p.numel() for p in codec.decoder.model.parameters())
    detail = (
        f"{codec.config.name}, {parameters / 1e6:.1f} M parameters, {codec.dim} dimensions, up to {codec.max_tokens} "
        f"tokens a chunk, {codec.profile}, fingerprint {codec.fingerprint[:12]}"
    )
    yield Finding("codec", "ok", detail)
    started = time.perf_counter()
    chunks = compress(codec, [_SENTENCE])[0]
    text = decompress(codec, [[chunk.payload for chunk in chunks]])[0]
    ms = 1000 * (time.perf_counter() - started)
    if text.exact and text.text == _SENTENCE:
        n = sum(len(chunk.payload.to_bytes(b"")) for chunk in chunks)
        yield Finding(
            "round trip", "ok", f"{len(_SENTENCE.encode())} bytes of text, {n} of payload, exact, {ms:.0f} ms"
        )
    else:
        yield Finding(
            "round trip",
            "bad",
            "a text did not come back exactly",
            "report it with the output of this command",
        )
    if not codec.can_answer:
        detail = "this codec was not trained to answer from latents; recalled text goes to any model"
        yield Finding("injection", "note", detail)


def _tokens(codec: LatentCodec) -> Iterator[Finding]:
    from nextmem_agents.recall.budget import TokenCounter, token_counter

    own = TokenCounter(f"codec:{codec.config.name}", codec.count_tokens)
    source = token_counter(None, own).source
    if source.startswith("tiktoken"):
        yield Finding("token counts", "ok", source)
    else:
        yield Finding(
            "token counts",
            "note",
            f"{source}; tiktoken's encoding file is not on this machine, and nothing is downloaded",
            "set TIKTOKEN_CACHE_DIR to a folder that has it, or install llama-index-core, which brings it",
        )


def _devices(codec: LatentCodec) -> Iterator[Finding]:
    import torch

    device = codec.profile.rpartition("/")[2]
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        advice = 'LatentCodec.load(…, device="cuda") uses it' if device == "cpu" else ""
        yield Finding("device", "ok", f"codec on {device}; CUDA has {names}", advice)
    else:
        threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} processors"
        yield Finding("device", "ok", f"codec on {device}, {threads}; no CUDA device")


def _store(store: str | None, codec: str | None, loads: bool, texts: bool) -> Iterator[Finding]:
    place = location(store)
    if isinstance(place, Path):
        if not is_store(place):
            yield Finding("store", "note", f"there is none in {place} yet", "`nextmem remember` makes one")
            return
        yield from _folder(place)
    if not loads:
        yield Finding("store", "bad", f"{place} was not looked at without a codec", "see above")
        return
    try:
        with opened(store, codec, read_only=True) as memory:
            counts = {name: memory.scope(name).count() for name in memory.scopes()}
            report = memory.verify(texts=texts)
    except NextMemError as error:
        yield Finding("store", "bad", str(error))
        return
    held = f"{sum(counts.values()):,} memories in {len(counts)} scopes"
    yield Finding("store", "ok", f"{place}: {held}")
    if report.damaged:
        first = report.damaged[0]
        detail = (
            f"{len(report.damaged)} versions are damaged, the first {first.id!r} in scope {first.scope!r}"
        )
        yield Finding(
            "integrity", "bad", detail, "`nextmem verify` lists them; restore the folder from a copy"
        )
    else:
        checked = "payloads and texts" if texts else "payloads"
        yield Finding(
            "integrity", "ok", f"{report.n_versions:,} versions, {report.n_chunks:,} {checked} check out"
        )
    if not is_server(store):
        yield Finding(
            "index", "note", "was not compared with the records", "`nextmem verify` does so, and mends it"
        )


def _folder(place: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(place).free
    if free < _LITTLE_DISK:
        yield Finding(
            "disk", "bad", f"{bytes_text(free)} free at {place}", "make room before anything is written"
        )
    else:
        yield Finding("disk", "ok", f"{bytes_text(free)} free at {place}")
    if not os.access(place, os.W_OK):
        yield Finding(
            "writing", "bad", f"{place} cannot be written to", "change its permissions, or use --store"
        )
    lock, holder = place / "writer.lock", place / "writer.json"
    if not lock.exists() or not os.access(lock, os.W_OK):
        return
    try:
        with FileLock(lock, timeout=0):
            yield Finding("lock", "ok", "nobody is writing")
    except Timeout:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        advice = "read commands work beside it; to write, close it there or use a Chroma server"
        yield Finding("lock", "note", f"held by {who}", advice)
