"""``ChatNextMem``: the codec's own backbone as a LangChain chat model that reads latent memory."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr, model_validator
from typing_extensions import Self

from langchain_nextmem.blocks import has_memories
from langchain_nextmem.configured import ConfiguredChatModel
from langchain_nextmem.conversation import ContentPart, as_conversation
from langchain_nextmem.scopes import called_with, check_async_call, scope_of, scope_of_call
from nextmem_agents.codec import DEFAULT_CODEC
from nextmem_agents.codec.chat import ChatTemplate, join_latents
from nextmem_agents.codec.generation import Part, Sampling, Usage, stream
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import Latents
from nextmem_agents.codec.tool_calls import Event, InvalidToolCall, Reasoning, ReplyParser, Text, ToolCall
from nextmem_agents.errors import CannotAnswer, CodecMismatch, InvalidArgument
from nextmem_agents.memory import NextMem
from nextmem_agents.recall.hits import Memory
from nextmem_agents.recall.rendering import HEADING, render_one
from nextmem_agents.scope import Scope


def _load(codec: Any) -> Any:
    return LatentCodec.load(codec) if isinstance(codec, str | Path) else codec


class ChatNextMem(ConfiguredChatModel):
    """The backbone of a codec as a chat model: it reads memories as latents, where other models need their text.

    A message may hold a block ``{"type": "nextmem_memory", "ids": ["…"]}`` (:func:`memory_block`) anywhere; the
    latents of these memories take its place, as input embeddings. They are read from the model's own scope, never from
    one that a message names. A memory that its latents do not carry (kept literally, or of low fidelity) goes in as
    quoted text.

    The shipped codecs are no language models: their replies say nothing here. For an agent, load a codec on Qwen3.

    Attributes:
        codec: a loaded codec, or the name or folder of one; by default the memory's, else ``mini-16``.
        cache: as LangChain has it, but for calls with memory blocks: what stands for them is not part of a cache's key,
            so their replies are neither taken from a cache nor put there.
        memory: a store (``user_id`` then names the scope), or the scope itself; only for memory blocks.
        user_id: whose memories; None for the one that the call's config names, else the scope ``default``.
        max_tokens: at most so many tokens are generated.
        temperature: 0 is greedy.
        top_p: draws among the likeliest tokens whose probabilities reach this sum.
        seed: makes draws repeatable.
        stop: strings that end a reply.
        thinking: let the model reason first, where its chat template knows of that; the reasoning is in
            ``additional_kwargs["reasoning_content"]``.
        timeout: seconds after which a reply ends where it is, with ``finish_reason`` "timeout".
        max_retries: taken so that settings can be shared with hosted models; here nothing is retried.
        api_key: taken likewise, and not used.
        streaming: whether ``invoke`` reports tokens to callbacks as they come.
        min_fidelity: memories of a lower fidelity go in as text.

    Examples:
        >>> from langchain_nextmem import memory_block
        >>> from nextmem_agents import NextMem
        >>> with NextMem.open(":memory:") as store:
        ...     alice = store.scope("alice")
        ...     note = alice.remember("She moved to Lisbon in May.")
        ...     model = ChatNextMem(memory=alice, max_tokens=8)
        ...     message = {"role": "user", "content": [memory_block([note]), {"type": "text", "text": "Where?"}]}
        ...     model.invoke([message]).usage_metadata["input_token_details"]["latent_positions"]
        1
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    codec: Annotated[LatentCodec, BeforeValidator(_load)] = Field(exclude=True)
    memory: NextMem | Scope | None = Field(default=None, exclude=True)
    user_id: str | None = None
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] | None = None
    thinking: bool = False
    timeout: float | None = None
    max_retries: int = 0
    api_key: SecretStr | None = Field(default=None, exclude=True)
    streaming: bool = False
    min_fidelity: float = 0.9

    _template: ChatTemplate = PrivateAttr()

    if TYPE_CHECKING:  # a codec may be left out or named, which its field's type does not say

        def __init__(
            self,
            *,
            codec: LatentCodec | str | Path | None = None,
            memory: NextMem | Scope | None = None,
            user_id: str | None = None,
            **settings: Any,
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _choose_codec(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("codec") is None:
            memory = values.get("memory")
            return {**values, "codec": DEFAULT_CODEC if memory is None else memory.codec}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Find a malformed scope or setting now, and not in the middle of a conversation."""
        if self.memory is not None:
            scope_of(self.memory, self.user_id)
        self._template = ChatTemplate(self.codec)
        self._sampling(None)
        return self

    @property
    def model_name(self) -> str:
        """The codec's name."""
        return self.codec.config.name

    @property
    def can_call_tools(self) -> bool:
        """Whether the backbone's chat template says how tools are called."""
        return self._template.can_call_tools

    def reads(self, scope: Scope) -> bool:
        """Whether this backbone is the one that a scope's latents are made for, and was trained to answer from them."""
        return scope.codec.fingerprint == self.codec.fingerprint and self.codec.backbone_answers

    def in_scope(self, scope: Scope) -> ChatNextMem:
        """The same model over another scope's memories."""
        return self.model_copy(update={"memory": scope, "user_id": None})

    @property
    def _llm_type(self) -> str:
        return "nextmem"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        names = ("max_tokens", "temperature", "top_p", "seed", "stop", "thinking")
        settings = {name: getattr(self, name) for name in names}
        return {"model_name": self.model_name, "fingerprint": self.codec.fingerprint, **settings}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_model_name"] = kwargs.get("model", self.model_name)
        params["ls_provider"] = "nextmem"
        return params

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools to call; their schemas go into its prompt, as Qwen3 is trained on.

        Args:
            tools: functions, classes, tools or schemas.
            tool_choice: ``"auto"``, ``"none"``, ``"any"`` (or ``"required"``), or a tool's name; a call is enforced
                by beginning the reply with it.
            kwargs: bound as well.

        Raises:
            InvalidArgument: the backbone calls no tools (``can_call_tools``), or there is no tool of that name.
        """
        if tools and not self.can_call_tools:
            raise InvalidArgument(
                f"the backbone of {self.model_name!r} was not trained to call tools; use a codec on Qwen3"
            )
        if tool_choice == "none":
            return self.bind(**kwargs)
        schemas = [convert_to_openai_tool(tool) for tool in tools]
        names = [schema["function"]["name"] for schema in schemas]
        if tool_choice not in (None, "auto", "any", "required", *names):
            raise InvalidArgument(
                f"tool_choice={tool_choice!r} is none of the tools: {', '.join(names) or 'none'}"
            )
        return self.bind(tools=schemas, tool_choice=tool_choice, **kwargs)

    def generate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """Replies to several conversations, each of which may have memory blocks; see ``cache``."""
        return super(ChatNextMem, self._uncached(messages)).generate(messages, *args, **kwargs)

    async def agenerate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """Async twin of ``generate``."""
        return await super(ChatNextMem, self._uncached(messages)).agenerate(messages, *args, **kwargs)

    def _uncached(self, conversations: Sequence[Sequence[BaseMessage]]) -> ChatNextMem:
        """The same model, without a cache where a message has memory blocks."""
        if any(has_memories(message) for messages in conversations for message in messages):
            return self.model_copy(update={"cache": False})
        return self

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of a text, of the codec's own tokenizer."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self.codec.tokenizer.encode([text])[0]

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """How many positions of the model's context messages take, latents and the template's own tokens included."""
        if not messages:
            return 0
        parts = self.prompt(messages, [convert_to_openai_tool(tool) for tool in tools or ()])
        return sum(int(part.lengths.sum()) if isinstance(part, Latents) else len(part) for part in parts)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - tokens are reported where they stream
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        *,
        tools: Sequence[dict[str, Any]] = (),
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        sampling = self._sampling(stop, **kwargs)
        begin = _beginning(tool_choice)
        pieces = stream(self.codec, self.prompt(messages, tools, begin=begin), sampling)
        parser = ReplyParser(tools=bool(tools))
        parser.feed(begin)
        before: Usage | None = None
        n_calls = 0
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        for piece in pieces:
            late = deadline is not None and time.monotonic() > deadline and piece.finish is None
            last = late or piece.finish is not None
            events = [*parser.feed(piece.text), *(parser.finish() if last else ())]
            if not events and not last:
                continue
            message = _chunk(events, n_calls, _added(before, piece.usage))
            n_calls += len(message.tool_call_chunks)
            before = piece.usage
            if last:
                message.chunk_position = "last"
                reason = "timeout" if late else "tool_calls" if n_calls else piece.finish
                message.response_metadata = {"model_name": self.model_name, "finish_reason": reason}
            chunk = ChatGenerationChunk(
                message=message, generation_info=dict(message.response_metadata) if last else None
            )
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
            if last:
                return

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with called_with(self._config):
            check_async_call(self.memory, self.user_id)
        async for chunk in super()._astream(messages, stop, run_manager, **kwargs):
            yield chunk

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with called_with(self._config):
            check_async_call(self.memory, self.user_id)
        return await super()._agenerate(messages, stop, run_manager, **kwargs)

    def prompt(
        self, messages: Sequence[BaseMessage], tools: Sequence[dict[str, Any]] = (), *, begin: str = ""
    ) -> list[Part]:
        """What the backbone is given for a conversation: token ids, and latents in the place of memory blocks.

        Raises:
            CannotAnswer: a message has a memory block, and the model no memory.
            CodecMismatch: the memory's codec is another one; nothing was computed.
            InvalidArgument: the messages cannot be put in the backbone's chat template.
            MemoryNotFound: the scope has no memory of an id.
        """
        conversation = as_conversation(messages, self._read)
        return self._template.prompt(conversation, tools, thinking=self.thinking, begin=begin)

    def _read(self, ids: Sequence[str]) -> list[ContentPart]:
        if self.memory is None:
            raise CannotAnswer(
                "a message has a block of memories, and the model has none: ChatNextMem(memory=scope)"
            )
        with called_with(self._config):
            scope = scope_of_call(self.memory, self.user_id)
        if scope.codec.fingerprint != self.codec.fingerprint:
            raise CodecMismatch(
                f"the memories are latents of codec {scope.codec.config.name!r} ({scope.codec.fingerprint[:12]}), "
                f"which the backbone of {self.model_name!r} ({self.codec.fingerprint[:12]}) cannot read; "
                "give it their text"
            )
        memories = scope.get(list(ids))
        latents: list[ContentPart] = []
        as_text: list[Memory] = []
        for memory in memories:
            if (memory.fidelity or 0.0) >= self.min_fidelity:
                rows = memory.batch.latents(memory.index, scope.codec)
                latents.append(join_latents([rows], scope.codec.fingerprint))
            else:
                as_text.append(memory)
        quoted = "\n".join([HEADING, *(render_one(memory, i + 1) for i, memory in enumerate(as_text))])
        return [*latents, f"{quoted}\n\n"] if as_text else latents

    def _sampling(self, stop: list[str] | None, **given: Any) -> Sampling:
        known = {"temperature", "top_p", "seed", "max_tokens"}
        if unknown := given.keys() - known - {"stream", "ls_structured_output_format"}:
            raise InvalidArgument(
                f"ChatNextMem takes no {min(unknown)!r} with a call; it takes {', '.join(sorted(known))}"
            )
        chosen = {name: given.get(name, getattr(self, name)) for name in known}
        return Sampling(
            max_new_tokens=chosen.pop("max_tokens"),
            stop=tuple(stop if stop is not None else self.stop or ()),
            ends=self._template.ends,
            **chosen,
        )


def _beginning(tool_choice: str | None) -> str:
    if tool_choice in (None, "auto"):
        return ""
    if tool_choice in ("any", "required"):
        return "<tool_call>\n"
    return f'<tool_call>\n{{"name": {json.dumps(tool_choice)}, "arguments": '


def _chunk(events: Sequence[Event], n_calls: int, usage: UsageMetadata) -> AIMessageChunk:
    reasoning = "".join(event.text for event in events if isinstance(event, Reasoning))
    calls = [event for event in events if isinstance(event, ToolCall | InvalidToolCall)]
    return AIMessageChunk(
        content="".join(event.text for event in events if isinstance(event, Text)),
        tool_call_chunks=[
            tool_call_chunk(
                name=call.name if isinstance(call, ToolCall) else None,
                # LangChain mends broken JSON, and would call a tool with what it made of it; a string stays invalid.
                args=json.dumps(
                    call.arguments if isinstance(call, ToolCall) else call.text, ensure_ascii=False
                ),
                id=f"call_{uuid.uuid4().hex}",
                index=n_calls + i,
            )
            for i, call in enumerate(calls)
        ],
        additional_kwargs={"reasoning_content": reasoning} if reasoning else {},
        usage_metadata=usage,
    )


def _added(before: Usage | None, usage: Usage) -> UsageMetadata:
    """What one chunk adds: LangChain sums over chunks."""
    new = usage.new_tokens - (before.new_tokens if before else 0)
    if before is not None:
        return UsageMetadata(input_tokens=0, output_tokens=new, total_tokens=new)
    read = usage.prompt_tokens + usage.latent_positions
    details: Any = {
        "latent_positions": usage.latent_positions
    }  # LangChain's type names no other model's details
    return UsageMetadata(
        input_tokens=read, output_tokens=new, total_tokens=read + new, input_token_details=details
    )
