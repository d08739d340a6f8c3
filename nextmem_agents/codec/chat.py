"""Chat messages to a prompt: the backbone's own chat template, with latents in the place of memories.

What people and tools write can never act as a control token: ``<|im_start|>`` in a message is text. The template sees
a mark in its place, and the mark becomes text again when the rendered prompt is tokenised.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jinja2.exceptions import TemplateError

from nextmem_agents.codec.generation import Part
from nextmem_agents.codec.injection import LAYOUTS
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import Latents
from nextmem_agents.errors import CheckpointError, InvalidArgument

Content: TypeAlias = str | Sequence[str | Latents]
"""A message's content: text, or text and latents in order."""

# Qwen3's layout, for checkpoints that bring no template (the published one adds the handling of reasoning).
CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n' }}
    {{- 'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within ' }}
    {{- '<tool_call></tool_call> XML tags:\\n<tool_call>\\n' }}
    {{- '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- elif not (loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {%- if not loop.first or message.content %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
"""
_TURN = ("<|im_start|>", "<|im_end|>")
_ENDS = ("<|im_end|>", "<|endoftext|>")


class ChatTemplate:
    """The prompts of one codec's backbone.

    The checkpoint's chat template where it has one (``chat_template.jinja``, or in ``tokenizer_config.json``), else
    Qwen3's layout. A backbone whose vocabulary has no turns (``mini``) was not trained to chat: for it, messages
    follow one another as plain text, and [SoD] comes last, which is the prompt that readers of memories are trained on.

    Attributes:
        can_call_tools: whether the template says how tools are called.
        ends: token ids that end a turn.
    """

    def __init__(self, codec: LatentCodec, template: str | None = None):
        """For a codec; ``template`` in place of the checkpoint's own."""
        self._codec = codec
        known = codec.tokenizer.tokenizer.get_added_tokens_decoder().values()
        self._control = sorted((token.content for token in known), key=len, reverse=True)
        found = template if template is not None else _stored_template(codec)
        if found is None and all(token in self._control for token in _TURN):
            found = CHATML
        self._template = found
        self.can_call_tools = found is not None and "tools" in found
        self.ends = frozenset(codec.tokenizer.control(token) for token in _ENDS if token in self._control)

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        thinking: bool = False,
        begin: str = "",
    ) -> list[Part]:
        """Token ids and latents of a conversation, up to where the assistant begins.

        Args:
            messages: each with ``role`` and ``content`` (:data:`Content`), and perhaps ``name``, ``tool_calls`` or
                ``tool_call_id``, as OpenAI's API has them (a call's ``arguments`` as a mapping).
            tools: JSON schemas as OpenAI's API has them.
            thinking: let the model reason first, where its template knows of that.
            begin: what the reply begins with, control tokens included (``<tool_call>`` makes it a call); the program's
                own words, never a user's.

        Raises:
            CodecMismatch: latents are another codec's.
            InvalidArgument: no message, tools for a backbone that calls none, or the template refuses the messages.
        """
        if not messages:
            raise InvalidArgument("a conversation needs at least one message")
        if tools and not self.can_call_tools:
            raise InvalidArgument(
                f"the backbone of {self._codec.config.name!r} was not trained to call tools; leave tools out, or use a "
                "codec on Qwen3"
            )
        marks = _Marks(self._codec, self._control)
        marked = [marks.message(message) for message in messages]
        if self._template is None:
            text = "\n".join(message["content"] for message in marked)
            return [*marks.parts(text), [self._codec.config.start_of_decode]]
        return marks.parts(_render(self._template, marked, marks.data(list(tools)), thinking) + begin)


def memory_parts(codec: LatentCodec, latents: Latents) -> list[Part]:
    """Latents as a prompt holds them: between [SoD] and the layout's mark where the codec was trained so."""
    layout = None if codec.config.answer_layout is None else LAYOUTS[codec.config.answer_layout]
    if layout is None or layout.after is None:
        return [latents]
    return [[codec.config.start_of_decode], latents, [codec.tokenizer.control(layout.after)]]


class _Marks:
    """Stand-ins, in what a template renders, for latents and for control tokens that somebody wrote as text."""

    def __init__(self, codec: LatentCodec, control: Sequence[str]):
        self._codec = codec
        self._found: list[str | Latents] = []
        # Letters and digits only, so that no template changes them; unguessable, so that nobody writes them.
        self._nonce = f"nextmem{secrets.token_hex(8)}x"
        self._in_text = re.compile("|".join(map(re.escape, control)) or r"(?!)")
        self._in_prompt = re.compile(
            f"{self._nonce}(\\d+)x|({self._in_text.pattern})" if control else f"{self._nonce}(\\d+)x"
        )

    def _mark(self, found: str | Latents) -> str:
        self._found.append(found)
        return f"{self._nonce}{len(self._found) - 1}x"

    def text(self, text: str) -> str:
        return self._in_text.sub(lambda match: self._mark(match[0]), text)

    def data(self, value: Any) -> Any:
        """JSON-like data with all its strings marked."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.data(key): self.data(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(item) for item in value]
        return value

    def message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        content = message.get("content") or ""
        parts = [content] if isinstance(content, str) else content
        for part in parts:
            if isinstance(part, Latents):
                self._codec.check(part)
        # Text that is one run is marked as one run: a control token must not be put together from two parts.
        runs: list[str | Latents] = []
        for part in parts:
            if isinstance(part, str) and runs and isinstance(runs[-1], str):
                runs[-1] += part
            else:
                runs.append(part)
        joined = "".join(self.text(run) if isinstance(run, str) else self._mark(run) for run in runs)
        others = {key: self.data(value) for key, value in message.items() if key not in ("role", "content")}
        return {"role": message["role"], "content": joined, **others}

    def parts(self, prompt: str) -> list[Part]:
        """A rendered prompt with the marks undone; text between control tokens is tokenised in one piece."""
        parts: list[Part] = []
        text, at = "", 0

        def flush() -> None:
            nonlocal text
            if text:
                parts.append(self._codec.tokenizer.encode([text])[0])
            text = ""

        for match in self._in_prompt.finditer(prompt):
            text += prompt[at : match.start()]
            at = match.end()
            found = None if match[1] is None else self._found[int(match[1])]
            if isinstance(found, str):
                text += found
                continue
            flush()
            if found is None:
                parts.append([self._codec.tokenizer.control(match[0])])
            else:
                parts += memory_parts(self._codec, found)
        text += prompt[at:]
        flush()
        return parts


def _render(template: str, messages: list[dict[str, Any]], tools: list[Any], thinking: bool) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered, _ = render_jinja_template(
            [messages],
            tools=tools or None,
            chat_template=template,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
    except TemplateError as error:
        raise InvalidArgument(f"the backbone's chat template refuses these messages: {error}") from error
    return str(rendered[0])


def _stored_template(codec: LatentCodec) -> str | None:
    for folder in (codec.folder, codec.parts.backbone):
        if folder is not None and (found := _template_in(folder)) is not None:
            return found
    return None


def _template_in(folder: Path) -> str | None:
    try:
        if (path := folder / "chat_template.jinja").is_file():
            return path.read_text(encoding="utf-8")
        if not (path := folder / "tokenizer_config.json").is_file():
            return None
        found = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read for its chat template: {error}") from error
    if isinstance(found, list):  # several, by name
        found = {item["name"]: item["template"] for item in found}.get("default")
    return found if isinstance(found, str) else None


def join_latents(rows: Sequence[torch.Tensor], fingerprint: str) -> Latents:
    """Latents of one memory's chunks, each float [L, D], one after another, as one row."""
    together = torch.cat(list(rows))
    return Latents(together[None], torch.tensor([len(together)]), fingerprint)
