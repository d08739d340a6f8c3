"""``ServerReader``: any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import Any

import httpx

from nextmem_agents.errors import InvalidArgument, ReaderError
from nextmem_agents.evaluation.readers.reader import INSTRUCTIONS, Reader

_RETRIES = 4
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)


class ServerReader(Reader):
    """A model behind ``URL/chat/completions``: OpenAI, vLLM, llama.cpp, Ollama and the like.

    Args:
        url: of the API, such as ``http://127.0.0.1:8000/v1``.
        model: its name there; by default the first one that the server lists.
        api_key_env: the environment variable that holds the key; the key itself is never written down.
        timeout: seconds that a reply may take.
        wait: seconds before the first retry of a request that the server was too busy for; doubled each time.
        instructions: the system message; the empty string for none.
        options: all else goes into the request as it is: ``temperature`` (0 by default), ``max_tokens``, ``seed`` …

    Raises:
        ReaderError: no server answers, or it lists no model.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 120.0,
        wait: float = 1.0,
        instructions: str = INSTRUCTIONS,
        **options: Any,
    ):
        if not re.match(r"https?://[^/]+", url):
            raise InvalidArgument(f"{url!r} is no address; give the API's, such as http://127.0.0.1:8000/v1")
        if unsafe := {"api_key", "messages", "stream"} & options.keys():
            raise InvalidArgument(
                f"option {min(unsafe)!r} is not taken; a key stands in the environment, see api_key_env"
            )
        self._url = url.rstrip("/")
        self._wait = wait
        self.instructions = instructions
        key = os.environ.get(api_key_env)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(timeout=timeout, headers=headers)
        self._model = model or self._first_model()
        self._options: dict[str, Any] = {"temperature": 0, "max_tokens": 64, **options}
        self.name = f"server:{self._model}"

    def settings(self) -> dict[str, Any]:
        """With the address and the request's options."""
        return super().settings() | {"url": self._url, "model": self._model, **self._options}

    def reply(self, prompt: str, system: str | None = None) -> str:
        """The server's reply, without what the model thought before it."""
        messages = [{"role": "user", "content": prompt}]
        if told := self.instructions if system is None else system:
            messages.insert(0, {"role": "system", "content": told})
        request = {"model": self._model, "messages": messages, **self._options}
        answer = self._json(self._request("POST", "/chat/completions", request))
        try:
            content = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise ReaderError(f"{self._url} answered without a message: {str(answer)[:200]}") from error
        return _THOUGHT.sub("", content or "").strip()

    def _first_model(self) -> str:
        listed = self._json(self._request("GET", "/models"))
        data = listed.get("data") if isinstance(listed, Mapping) else None
        if not data or not isinstance(data, list) or not isinstance(data[0], dict) or "id" not in data[0]:
            raise ReaderError(f"{self._url} lists no model; name one with the option model")
        return str(data[0]["id"])

    def _request(self, method: str, path: str, body: Any = None) -> httpx.Response:
        last = ""
        for attempt in range(_RETRIES):
            if attempt:
                time.sleep(self._wait * 2 ** (attempt - 1))
            try:
                response = self._client.request(method, self._url + path, json=body)
            except httpx.HTTPError as error:
                last = f"{type(error).__name__}: {error}"
                continue
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.status_code >= 500:
                last = f"status {response.status_code}: {response.text[:200]}"
                continue
            if response.status_code >= 400:
                raise ReaderError(
                    f"{self._url}{path} refused the request, status {response.status_code}: {response.text[:300]}"
                )
            return response
        raise ReaderError(f"{self._url}{path} did not answer in {_RETRIES} attempts; {last}")

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise ReaderError(f"{response.url} answered with no JSON: {response.text[:200]}") from error
