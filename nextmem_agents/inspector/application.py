"""The inspector's requests: the page's own files, what it may read, and the two things that it may change."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from nextmem_agents.errors import (
    CannotAnswer,
    InvalidArgument,
    MemoryNotFound,
    NextMemError,
    ReadOnlyStore,
)
from nextmem_agents.inspector.anatomy import chunk_view
from nextmem_agents.inspector.filtering import parse_filter
from nextmem_agents.inspector.guard import Guard
from nextmem_agents.inspector.probing import sensitivity_view
from nextmem_agents.inspector.projection import map_view
from nextmem_agents.inspector.views import (
    Texts,
    View,
    hit_view,
    row_view,
    store_view,
    texts_view,
    version_view,
)
from nextmem_agents.memory import NextMem
from nextmem_agents.quantization import Payload
from nextmem_agents.scope import Ranking, Scope

STATIC = Path(__file__).with_name("static")
MAX_PAGE = 200
MAX_TEXTS = 24
MAX_HITS = 100
FORGET_WORD = "forget"

Read = Callable[[Request], Any]


def application(memory: NextMem, token: str, port: int) -> ASGIApp:
    """The inspector of a memory, as an ASGI application that listens on ``port``."""
    requests = _Requests(memory)
    routes = [
        Route("/", _page, methods=["GET"]),
        *(Route(f"/api/{name}", _reads(read), methods=["GET"]) for name, read in requests.reads.items()),
        *(Route(f"/api/{name}", _writes(write), methods=["POST"]) for name, write in requests.writes.items()),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Guard(Starlette(routes=routes), token, port)


async def _page(_: Request) -> Response:
    return FileResponse(STATIC / "index.html")


def _reads(read: Read) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return await run_in_threadpool(_answered, read, request.query_params)

    return answer


def _writes(write: Read) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict) or request.headers.get("content-type") != "application/json":
            return JSONResponse({"error": "A change is asked for in a JSON object."}, 400)
        return await run_in_threadpool(_answered, write, body)

    return answer


def _answered(work: Callable[[Any], Any], arguments: Any) -> Response:
    try:
        return JSONResponse(work(arguments))
    except MemoryNotFound as error:
        return JSONResponse({"error": str(error)}, 404)
    except (InvalidArgument, CannotAnswer) as error:
        return JSONResponse({"error": str(error)}, 400)
    except ReadOnlyStore as error:
        return JSONResponse({"error": str(error)}, 403)
    except NextMemError as error:
        return JSONResponse({"error": str(error)}, 409)


class _Requests:
    """What can be asked of a memory; each takes the request's arguments by name and gives what becomes JSON."""

    def __init__(self, memory: NextMem) -> None:
        self._memory = memory
        self._texts = Texts()
        self.reads = {
            "store": self._store,
            "memories": self._memories,
            "texts": self._texts_of,
            "search": self._search,
            "memory": self._one,
            "chunk": self._chunk,
            "sensitivity": self._sensitivity,
            "map": self._map,
        }
        self.writes = {"forget": self._forget, "erase": self._erase}

    def _scope(self, asked: Any) -> Scope:
        return self._memory.scope(_text(asked, "scope"))

    def _store(self, _: Any) -> View:
        return store_view(self._memory)

    def _memories(self, asked: Any) -> View:
        limit = _number(asked, "limit", 100, MAX_PAGE)
        found = self._scope(asked).list(
            where=parse_filter(asked.get("filter", "")),
            newest_first=asked.get("order") == "newest",
            limit=limit + 1,
            after=asked.get("after") or None,
        )
        rows = [row_view(memory) for memory in found]
        return {"rows": rows[:limit], "more": len(rows) > limit}

    def _texts_of(self, asked: Any) -> list[View]:
        ids = asked.getlist("id")
        if not 1 <= len(ids) <= MAX_TEXTS:
            raise InvalidArgument(f"ask for 1 to {MAX_TEXTS} texts, not {len(ids)}")
        return texts_view(self._scope(asked), ids, self._texts)

    def _search(self, asked: Any) -> View:
        scope = self._scope(asked)
        ranking = asked.get("ranking", "hybrid")
        if ranking not in get_args(Ranking):
            raise InvalidArgument(f"ranking is one of {', '.join(get_args(Ranking))}, not {ranking!r:.80}")
        hits = scope.recall(
            _text(asked, "query"),
            _number(asked, "k", 20, MAX_HITS),
            where=parse_filter(asked.get("filter", "")),
            ranking=ranking,
        )
        texts = self._texts.of(scope.name, hits)
        return {"hits": [hit_view(hit, text) for hit, text in zip(hits, texts, strict=True)]}

    def _one(self, asked: Any) -> View:
        scope = self._scope(asked)
        versions = scope.history(_text(asked, "id"))
        texts = self._texts.of(scope.name, versions)
        return {
            "scope": scope.name,
            "encrypted": scope.encrypted,
            "versions": [
                version_view(version, text, scope.encrypted)
                for version, text in zip(versions, texts, strict=True)
            ],
        }

    def _payload(self, asked: Any) -> Payload:
        wanted = _number(asked, "version", 0, 2**63)
        for memory in self._scope(asked).history(_text(asked, "id")):
            if memory.record.version == wanted:
                payloads = memory.batch.payloads(memory.index)
                chunk = _number(asked, "chunk", 0, len(payloads) - 1, least=0)
                return payloads[chunk]
        raise MemoryNotFound(f"memory {asked.get('id')!r:.80} has no version {wanted} (any more)")

    def _chunk(self, asked: Any) -> View:
        return chunk_view(self._memory.codec, self._payload(asked))

    def _sensitivity(self, asked: Any) -> View:
        return sensitivity_view(self._memory.codec, self._payload(asked))

    def _map(self, asked: Any) -> View:
        return map_view(self._memory, self._scope(asked))

    def _forget(self, asked: Any) -> View:
        if _text(asked, "confirm") != FORGET_WORD:
            raise InvalidArgument(f"to forget a memory, {FORGET_WORD!r} has to be typed")
        forgotten = self._scope(asked).forget([_text(asked, "id")])
        self._texts.clear()
        return {"forgotten": forgotten}

    def _erase(self, asked: Any) -> View:
        scope = self._scope(asked)
        if _text(asked, "confirm") != scope.name:
            raise InvalidArgument("to erase a scope, its name has to be typed")
        self._texts.clear()
        receipt = asdict(scope.erase())
        self._texts.clear()  # what another request decoded meanwhile
        return receipt | {"erased_at": receipt["erased_at"].isoformat()}


def _text(asked: Any, name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{name} is missing")
    return value


def _number(asked: Any, name: str, default: int, most: int, least: int = 1) -> int:
    value = asked.get(name, str(default))
    digits = value.lstrip("0") or "0"
    if not (value.isascii() and value.isdigit()) or len(digits) > 20 or not least <= int(digits) <= most:
        raise InvalidArgument(f"{name} is a whole number from {least} to {most}, not {value[:80]!r}")
    return int(digits)
