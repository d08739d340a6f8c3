"""``NextMemLLM``: the codec's own backbone as a LlamaIndex LLM, which reads memories as latents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from typing import Any, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from pydantic import Field, PrivateAttr
from typing_extensions import Self

from llama_index_nextmem.injection import message_latents
from llama_index_nextmem.scopes import scope_of
from nextmem_agents.codec.chat import ChatTemplate
from nextmem_agents.codec.generation import Part, Piece, Sampling, stream
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.tool_calls import ReplyParser, Text
from nextmem_agents.errors import InvalidArgument
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Scope

R = TypeVar("R")
_SAMPLING = ("max_new_tokens", "temperature", "top_p", "seed")


class NextMemLLM(CustomLLM):
    """Chats with the codec's backbone; memories that a message carries go in as latents, in place of their text.

    A message's ``additional_kwargs["nextmem_ids"]`` are memories of ``scope``, whose latents are spliced in as input
    embeddings before the message's text: ``NextMemMemory(mode="inject")`` and ``NextMemSynthesizer`` write them.
    Messages go through the backbone's chat template; ``mini``, which was not trained to chat, has none, and its
    replies are of no use beyond tests. ``complete`` continues a text as it is.

    Args:
        memory: the scope that ids belong to; or a store, for its scope ``default``; with neither ``memory`` nor
            ``codec``, the default store's.
        codec: whose backbone generates, or a name or folder to load; by default the codec of the memory.
        max_new_tokens: see :class:`nextmem_agents.codec.generation.Sampling`, like all that follow; each can be given
            with a call, too, and ``stop`` strings.
        temperature: 0 is greedy.
        top_p: of nucleus sampling.
        seed: makes draws repeatable.
        **settings: LlamaIndex's own: ``callback_manager``, ``system_prompt`` …

    Raises:
        CodecMismatch: when a message carries memories of another codec; nothing was computed.
        InvalidArgument: a setting is out of range or unknown.
        MemoryNotFound: when a message carries an id that the scope does not have.
        TextTooLong: when the messages exceed the backbone's context.
    """

    scope: Scope | None = Field(default=None, exclude=True)
    codec: LatentCodec = Field(exclude=True)
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    _template: ChatTemplate = PrivateAttr()

    def __init__(
        self,
        memory: NextMem | Scope | None = None,
        *,
        codec: LatentCodec | str | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        unknown = settings.keys() - set(type(self).model_fields)
        if unknown:
            raise InvalidArgument(
                f"NextMemLLM takes no {min(unknown)!r}; its own settings are memory, codec, {', '.join(_SAMPLING)}"
            )
        scope = None if memory is None and codec is not None else scope_of(memory)
        if codec is None:
            chosen = scope_of(scope).codec
        else:
            chosen = LatentCodec.load(codec) if isinstance(codec, str) else codec
        super().__init__(
            scope=scope,
            codec=chosen,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            **settings,
        )
        self._template = ChatTemplate(chosen)
        self._sampling({})

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name for it."""
        return "NextMemLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex wants to know about a model."""
        return LLMMetadata(
            context_window=int(self.codec.reader.model.config.max_position_embeddings),
            num_output=self.max_new_tokens,
            is_chat_model=True,
            model_name=self.codec.config.name,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """What :meth:`to_dict` gave, over a scope or codec that is given again: ``from_dict(data, memory=scope)``.

        Raises:
            InvalidArgument: neither is given; the default store's would be another's memory.
        """
        if not kwargs.keys() & {"memory", "codec"}:
            raise InvalidArgument(
                "a saved NextMemLLM has neither scope nor codec: pass the scope again, from_dict(data, memory=scope)"
            )
        return super().from_dict(data, **kwargs)

    def over(self, scope: Scope) -> NextMemLLM:
        """The same model over another scope: one model serves many users, and none reads another's memories."""
        return self.model_copy(update={"scope": scope})

    def prompt(self, messages: Sequence[ChatMessage]) -> list[Part]:
        """What the backbone reads: token ids, and the latents of the memories that the messages carry."""
        return self._template.prompt(
            [
                {
                    "role": message.role.value,
                    "content": [*message_latents(message, self.scope), message.content or ""],
                }
                for message in messages
            ]
        )

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The whole reply; ``raw["usage"]`` says what it took."""
        return _last(self._chat(messages, kwargs))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """The reply as it comes; the prompt is checked before the first piece."""
        return _generator(self._chat(messages, kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """As :meth:`chat`, in a worker thread."""
        return await asyncio.to_thread(lambda: _last(self._chat(messages, kwargs)))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """As :meth:`stream_chat`, each step in a worker thread."""
        return _in_threads(await asyncio.to_thread(self._chat, messages, kwargs))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The prompt continued."""
        return _last(self._complete(prompt, formatted, kwargs))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """The prompt continued, as it comes."""
        return _generator(self._complete(prompt, formatted, kwargs))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """As :meth:`complete`, in a worker thread."""
        return await asyncio.to_thread(lambda: _last(self._complete(prompt, formatted, kwargs)))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """As :meth:`stream_complete`, each step in a worker thread."""
        return _in_threads(await asyncio.to_thread(self._complete, prompt, formatted, kwargs))

    def _chat(self, messages: Sequence[ChatMessage], settings: dict[str, Any]) -> Iterator[ChatResponse]:
        pieces = stream(self.codec, self.prompt(messages), self._sampling(settings))

        def respond() -> Iterator[ChatResponse]:
            # What a backbone thinks before it answers is no part of the answer.
            parser, text = ReplyParser(tools=False), ""
            for piece in pieces:
                events = parser.feed(piece.text) + (parser.finish() if piece.finish else [])
                delta = "".join(event.text for event in events if isinstance(event, Text))
                text += delta
                yield ChatResponse(
                    message=ChatMessage(role=MessageRole.ASSISTANT, content=text),
                    delta=delta,
                    **_usage(piece),
                )

        return respond()

    def _complete(
        self, prompt: str, formatted: bool, settings: dict[str, Any]
    ) -> Iterator[CompletionResponse]:
        if not formatted and self.completion_to_prompt is not None:
            prompt = self.completion_to_prompt(prompt)
        pieces = stream(self.codec, self.codec.tokenizer.encode([prompt]), self._sampling(settings))

        def respond() -> Iterator[CompletionResponse]:
            text = ""
            for piece in pieces:
                text += piece.text
                yield CompletionResponse(text=text, delta=piece.text, **_usage(piece))

        return respond()

    def _sampling(self, given: dict[str, Any]) -> Sampling:
        unknown = given.keys() - {*_SAMPLING, "stop"}
        if unknown:
            raise InvalidArgument(
                f"NextMemLLM takes no {min(unknown)!r}; with a call it takes stop, {', '.join(_SAMPLING)}"
            )
        chosen = {name: given.get(name, getattr(self, name)) for name in _SAMPLING}
        stop = given.get("stop") or ()
        return Sampling(
            stop=(stop,) if isinstance(stop, str) else tuple(stop), ends=self._template.ends, **chosen
        )


def _usage(piece: Piece) -> dict[str, Any]:
    """Where LlamaIndex's token counter and its traces look for it; latents are positions of the prompt."""
    used = piece.usage
    prompt = used.prompt_tokens + used.latent_positions
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": used.new_tokens,
        "total_tokens": prompt + used.new_tokens,
        "latent_positions": used.latent_positions,
    }
    return {"raw": {"usage": counts, "finish_reason": piece.finish}, "additional_kwargs": counts}


def _last(responses: Iterator[R]) -> R:
    *_, last = responses
    return last


def _generator(responses: Iterator[R]) -> Generator[R, None, None]:
    # LlamaIndex's callbacks know a stream by its being a generator.
    yield from responses


async def _in_threads(responses: Iterator[R]) -> AsyncGenerator[R, None]:
    end = object()
    while (response := await asyncio.to_thread(next, responses, end)) is not end:
        yield response  # type: ignore[misc]  # not the end mark, hence an R
