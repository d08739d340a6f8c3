"""A chat model that knows the config of the call it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig
from pydantic import PrivateAttr
from typing_extensions import Self


class ConfiguredChatModel(BaseChatModel):
    """A chat model with ``_config``: that of the call, None where it has none.

    LangChain hands on a call's callbacks, and not the config that names its user.
    """

    _config: RunnableConfig | None = PrivateAttr(default=None)

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """The reply; ``config={"configurable": {"user_id": "alice"}}`` names the user whose memories it reads."""
        return super(ConfiguredChatModel, self._called(config)).invoke(input, config, **kwargs)

    async def ainvoke(  # noqa: D102 - as invoke
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        return await super(ConfiguredChatModel, self._called(config)).ainvoke(input, config, **kwargs)

    def stream(  # noqa: D102 - as invoke
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        return super(ConfiguredChatModel, self._called(config)).stream(input, config, **kwargs)

    def astream(  # noqa: D102 - as invoke
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        return super(ConfiguredChatModel, self._called(config)).astream(input, config, **kwargs)

    def stream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002, D102
        return super(ConfiguredChatModel, self._called(config)).stream_events(input, config, **kwargs)

    def astream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002, D102
        return super(ConfiguredChatModel, self._called(config)).astream_events(input, config, **kwargs)

    def _called(self, config: RunnableConfig | None) -> Self:
        """The same model for one call."""
        if config is None:
            return self
        model = self.model_copy()
        model._config = config
        return model
