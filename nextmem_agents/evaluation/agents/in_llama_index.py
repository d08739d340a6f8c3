"""A LlamaIndex chat engine with a memory: ``NextMemMemoryBlock``, or any text memory as a block in its place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from nextmem_agents.evaluation.agents.agent import Asked, Latent
from nextmem_agents.evaluation.locomo import Session
from nextmem_agents.evaluation.memories.memory import TextMemory
from nextmem_agents.evaluation.readers.in_llama_index import require_llama_index, text_of
from nextmem_agents.evaluation.readers.reader import Reader

require_llama_index()

from llama_index.core.base.llms.types import ChatMessage, MessageRole  # noqa: E402
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload  # noqa: E402
from llama_index.core.callbacks.base_handler import BaseCallbackHandler  # noqa: E402
from llama_index.core.chat_engine import SimpleChatEngine  # noqa: E402
from llama_index.core.memory import BaseMemoryBlock, InsertMethod, Memory  # noqa: E402
from pydantic import ConfigDict, Field, PrivateAttr  # noqa: E402
from sqlalchemy.ext.asyncio import create_async_engine  # noqa: E402

from llama_index_nextmem import NextMemMemoryBlock  # noqa: E402
from llama_index_nextmem.injection import MEMORY_IDS  # noqa: E402

_NAME = "Memory"  # of every block, since it stands in the prompt
_ROOM = 1_000_000  # tokens that LlamaIndex lets a chat have before it cuts blocks; each memory keeps its own budget


class TextMemoryBlock(BaseMemoryBlock[str]):
    """A text memory at the place where ``NextMemMemoryBlock`` stands."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str = _NAME
    memory: Any = Field(exclude=True)
    _recalled: tuple[str, ...] = PrivateAttr(default=())

    async def _aget(
        self,
        messages: list[ChatMessage] | None = None,
        **block_kwargs: Any,  # noqa: ARG002 - LlamaIndex's form
    ) -> str:
        found = self.memory.recall((messages or [])[-1].content or "")
        self._recalled = found.ids
        return str(found.block)

    async def _aput(self, messages: list[ChatMessage]) -> None:
        """Nothing is remembered of the questions."""

    @property
    def recalled(self) -> tuple[str, ...]:
        """Turns of the last recall."""
        return self._recalled


class Witness(BaseCallbackHandler):
    """Notes what the LLM is given, and how long it takes."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.messages: Sequence[ChatMessage] = ()
        self.seconds = 0.0
        self._started = 0.0

    def on_event_start(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        parent_id: str = "",  # noqa: ARG002 - LlamaIndex's form
        **kwargs: Any,  # noqa: ARG002
    ) -> str:
        """An LLM is called."""
        if event_type is CBEventType.LLM and payload:
            self.messages = payload[EventPayload.MESSAGES]
            self._started = time.perf_counter()
        return event_id

    def on_event_end(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,  # noqa: ARG002
        event_id: str = "",  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """It has answered."""
        if event_type is CBEventType.LLM:
            self.seconds = time.perf_counter() - self._started

    def start_trace(self, trace_id: str | None = None) -> None:
        """Nothing."""

    def end_trace(self, trace_id: str | None = None, trace_map: dict[str, list[str]] | None = None) -> None:
        """Nothing."""


class LlamaIndexAgent:
    """A ``SimpleChatEngine`` over one history, with a fresh chat for every question."""

    def __init__(self, memory: Latent | TextMemory, reader: Reader, count: Callable[[str], int]):
        self._memory = memory
        self._reader = reader
        self._count = count
        self._block: BaseMemoryBlock[Any] = (
            NextMemMemoryBlock(
                name=_NAME,
                memory=memory.scope,
                k=memory.k,
                max_tokens=memory.max_tokens,
                mode=self._mode(memory),
            )
            if isinstance(memory, Latent)
            else getattr(memory, "block", None) or TextMemoryBlock(memory=memory)
        )
        self._witness = Witness()
        llm = reader.llm()
        # A NextMemLLM reads latents of the scope that it is over.
        self._llm = llm.over(memory.scope) if isinstance(memory, Latent) and hasattr(llm, "over") else llm
        self._llm.callback_manager = CallbackManager([self._witness])

    def _mode(self, memory: Latent) -> Any:
        """LlamaIndex's block does not see its model; who asks for ``auto`` gets what suits the reader."""
        if memory.mode != "auto":
            return memory.mode
        codec = getattr(self._reader, "codec", None)
        same = codec is not None and codec.fingerprint == memory.scope.codec.fingerprint
        return "inject" if same else "decompress"

    def read(self, session: Session) -> None:
        """Take in a session."""
        self._memory.read(session)

    def ask(self, question: str, asked_at: datetime | None = None) -> Asked:
        """One turn of a new chat."""
        started = time.perf_counter()
        reply = asyncio.run(self._turn(question, self._reader.told(asked_at)))
        return self._asked(question, reply, time.perf_counter() - started)

    async def _turn(self, question: str, system: str) -> str:
        # LlamaIndex keeps a chat in SQLite, and by itself never closes it.
        database = create_async_engine("sqlite+aiosqlite:///:memory:")
        try:
            memory = Memory.from_defaults(
                memory_blocks=[self._block],
                insert_method=InsertMethod.USER,
                token_limit=_ROOM,
                async_engine=database,
            )
            engine = SimpleChatEngine.from_defaults(
                llm=self._llm, memory=memory, system_prompt=system or None
            )
            return str(await engine.achat(question)).strip()
        finally:
            await database.dispose()

    def _asked(self, question: str, reply: str, seconds: float) -> Asked:
        told = [message for message in self._witness.messages if message.role is not MessageRole.SYSTEM]
        injected = [id_ for message in told for id_ in message.additional_kwargs.get(MEMORY_IDS) or ()]
        text = "\n".join(text_of(message) for message in told)
        memory = text.removesuffix(question).strip("\n")
        positions = 0
        if isinstance(self._memory, Latent):
            recalled = self._memory.turns(injected or self._recalled(question))
            positions = self._memory.latents(injected)
        elif isinstance(self._block, TextMemoryBlock):
            recalled = self._block.recalled
        else:  # a framework's own block: its memory knows the turns by their text
            recalled = getattr(self._memory, "ids_in")(memory)  # noqa: B009 - not of every text memory
        return Asked(
            reply=reply,
            prompt=(f"<{positions} latents>" if injected else "") + text,
            recalled=recalled,
            text_tokens=self._count(memory) if memory else 0,
            latent_positions=positions,
            seconds=seconds,
            reader_seconds=self._witness.seconds,
        )

    def _recalled(self, question: str) -> list[str]:
        """The block keeps no ids where it gives text: the same recall again, after the clock has stopped."""
        memory = self._memory
        assert isinstance(memory, Latent)  # noqa: S101 - for the type checker
        return [hit.id for hit in memory.scope.recall(question, memory.k)]
