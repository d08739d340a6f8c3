"""``NextMemSynthesizer``: answers from recalled memories, as latents or as quoted text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.llms import LLM
from llama_index.core.response_synthesizers import CompactAndRefine
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryType
from llama_index.core.types import RESPONSE_TEXT_TYPE

from llama_index_nextmem.injection import memory_message
from llama_index_nextmem.llm import NextMemLLM
from llama_index_nextmem.nodes import MEMORY_ID, Quotation, memory_id
from llama_index_nextmem.scopes import scope_of
from nextmem_agents.errors import CannotAnswer, InvalidArgument
from nextmem_agents.memory import NextMem
from nextmem_agents.recall.policy import MODES, Mode, Plan, make_plan
from nextmem_agents.recall.rendering import render
from nextmem_agents.scope import Scope

MODE = "mode"


class NextMemSynthesizer(CompactAndRefine):
    """Gives an LLM the memories among the nodes, as text, as latents, or some as either.

    - ``"inject"``: as latents, in place of their text. The LLM has to be a :class:`NextMemLLM` of the memories' codec.
    - ``"decompress"``: as text, quoted and with provenance, in LlamaIndex's own prompts; as many calls as it takes
      where they exceed the LLM's context (``CompactAndRefine``).
    - ``"mixed"``: the best half of the memories as text before the question, the others as latents.
    - ``"auto"``: injects where the LLM can read latents and all nodes are memories of the scope, but for memories that
      their latents do not carry; else decompresses. ``Hits.plan`` says more.

    The response's ``metadata`` says of each node which it was (``mode``).

    Args:
        memory: the scope whose memories the nodes are; or a store, for its scope ``default``; the default store if
            left out.
        llm: who answers; by default the codec's own backbone. An LLM of many users is fine: memories are only ever
            read from this scope.
        mode: see above.
        **settings: of ``CompactAndRefine``: ``streaming``, ``text_qa_template``, ``callback_manager`` …

    Raises:
        CannotAnswer: when asked, ``"inject"`` or ``"mixed"`` with an LLM that cannot read the latents.
        InvalidArgument: an unknown mode; or when asked, ``"inject"`` or ``"mixed"`` with a node that is no memory of
            the scope.
    """

    def __init__(
        self,
        memory: NextMem | Scope | None = None,
        *,
        llm: LLM | None = None,
        mode: Mode = "auto",
        **settings: Any,
    ) -> None:
        if mode not in MODES:
            raise InvalidArgument(f"mode must be 'auto', 'decompress', 'inject' or 'mixed', not {mode!r}")
        self.scope = scope_of(memory)
        self.mode = mode
        super().__init__(llm=llm or NextMemLLM(self.scope), **settings)

    def synthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """The answer to a query from nodes."""
        given = self._given(nodes)
        response = super().synthesize(query, nodes, additional_source_nodes, **given, **response_kwargs)
        return _with_mode(response, given)

    async def asynthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """Async twin of :meth:`synthesize`."""
        given = await asyncio.to_thread(self._given, nodes)
        response = await super().asynthesize(
            query, nodes, additional_source_nodes, **given, **response_kwargs
        )
        return _with_mode(response, given)

    def get_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        prev_response: RESPONSE_TEXT_TYPE | None = None,
        memory_ids: Sequence[str] | None = None,
        quoted: Sequence[str] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        """The answer's text; :meth:`synthesize` says what of memory goes in, by ``memory_ids`` or ``quoted``."""
        if memory_ids is None:
            return super().get_response(query_str, quoted or text_chunks, prev_response, **response_kwargs)
        messages = [memory_message(self.scope, memory_ids, "\n\n".join([*(quoted or ()), query_str]))]
        if self._streaming:
            return _deltas(self._reader().stream_chat(messages))
        return self._reader().chat(messages).message.content or ""

    async def aget_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        prev_response: RESPONSE_TEXT_TYPE | None = None,
        memory_ids: Sequence[str] | None = None,
        quoted: Sequence[str] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        """Async twin of :meth:`get_response`."""
        if memory_ids is None:
            return await super().aget_response(
                query_str, quoted or text_chunks, prev_response, **response_kwargs
            )
        messages = [memory_message(self.scope, memory_ids, "\n\n".join([*(quoted or ()), query_str]))]
        if self._streaming:
            return _async_deltas(await self._reader().astream_chat(messages))
        return (await self._reader().achat(messages)).message.content or ""

    def _reader(self) -> NextMemLLM:
        """The LLM if it can read the scope's latents; it then reads this scope and no other.

        Raises:
            CannotAnswer: it cannot.
        """
        llm, codec = self._llm, self.scope.codec
        if isinstance(llm, NextMemLLM) and llm.codec.fingerprint == codec.fingerprint:
            return llm.over(self.scope)
        raise CannotAnswer(
            f"latents of the codec {codec.config.name!r} can be injected into its own backbone only, and the LLM is "
            f"{llm.class_name()}: use llm=NextMemLLM(memory), or mode='decompress'"
        )

    def _planned(self, nodes: Sequence[NodeWithScore]) -> Plan | None:
        """How the memories that the nodes stand for are given to the LLM; None if all nodes go in as text."""
        if self.mode == "decompress" or not nodes:
            return None
        try:
            reader = self._reader()
        except CannotAnswer:
            if self.mode != "auto":
                raise
            return None
        if self.mode == "auto" and not reader.codec.backbone_answers:
            return None  # it can be given latents, and was not trained to answer from them
        ids = []
        for each in nodes:
            known = memory_id(each.node, self.scope)
            if known is None and self.mode == "auto":
                return None
            if known is None:
                raise InvalidArgument(
                    f"node {each.node.node_id!r} is no memory of the scope {self.scope.name!r}, and has no latents: "
                    "use mode='auto', which gives all nodes as text then"
                )
            ids.append(known)
        plan = make_plan(self.scope.get(ids), self.scope.token_counter(), model=reader, mode=self.mode)
        return plan if plan.of("inject") else None

    def _given(self, nodes: Sequence[NodeWithScore]) -> dict[str, Any]:
        plan = self._planned(nodes)
        if plan is None:
            return {"quoted": self._quoted(nodes)}
        as_text = {memory.id for memory in plan.of("decompress")}
        quoted = [each for each in nodes if memory_id(each.node, self.scope) in as_text]
        return {"memory_ids": [memory.id for memory in plan.of("inject")], "quoted": self._quoted(quoted)}

    def _quoted(self, nodes: Sequence[NodeWithScore]) -> list[str]:
        """Memories as the core renders them for prompts, then all other nodes as LlamaIndex does."""
        memories = [each for each in nodes if memory_id(each.node, self.scope) is not None]
        others = [each for each in nodes if memory_id(each.node, self.scope) is None]
        block = render([Quotation.of(each) for each in memories], self.scope.token_counter())
        rest = [each.node.get_content(metadata_mode=MetadataMode.LLM) for each in others]
        return [block, *rest] if block else rest


def _with_mode(response: RESPONSE_TYPE, given: dict[str, Any]) -> RESPONSE_TYPE:
    injected = set(given.get("memory_ids", ()))
    # Copies: the metadata are the nodes' own.
    response.metadata = {
        id_: {**known, MODE: "inject" if known.get(MEMORY_ID) in injected else "decompress"}
        for id_, known in (response.metadata or {}).items()
    }
    return response


def _deltas(responses: Any) -> Generator[str, None, None]:
    for response in responses:
        yield response.delta or ""


async def _async_deltas(responses: Any) -> AsyncGenerator[str, None]:
    async for response in responses:
        yield response.delta or ""
