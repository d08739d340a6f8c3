"""Every reader answers a prompt, says what it is, and fails in words."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from nextmem_agents import LatentCodec
from nextmem_agents.errors import CannotAnswer, DataError, InvalidArgument, MissingExtra, ReaderError
from nextmem_agents.evaluation.readers import Quotation, Told, quoted_prompt
from nextmem_agents.evaluation.readers.codec import CodecReader
from nextmem_agents.evaluation.readers.extractive import ExtractiveReader
from nextmem_agents.evaluation.readers.named import load_reader
from nextmem_agents.evaluation.readers.reader import INSTRUCTIONS
from nextmem_agents.recall.rendering import render
from tests.codec import tiny
from tests.evaluation.tiny_study import Recording

MEMORIES = [
    Quotation("1", "I like jazz.\nMy dog is Rufus.", "Ann"),
    Quotation("2", "The vet is in Porto.", "Ben"),
]


def words(text: str) -> int:
    return len(text.split())


def test_text_is_read_in_the_prompt_of_scope_answer() -> None:
    reader = Recording()
    told = reader.read(MEMORIES, "Where is the vet?", words)
    block = render(MEMORIES, words)
    assert told == Told("Porto", f"{block}\n\nQuestion: Where is the vet?\nAnswer:", words(block))
    assert reader.read([], "Where?", words) == Told("Porto", quoted_prompt("", "Where?"), 0)


def test_the_day_of_a_question_stands_with_the_instructions() -> None:
    day = datetime(2023, 5, 30, tzinfo=timezone.utc)
    assert Recording(instructions="Be brief.").told(day) == "Be brief. Today is Tuesday, 2023-05-30."
    assert Recording().told(day) == ""


def test_the_extractive_reader_quotes_the_best_sentence() -> None:
    reader = ExtractiveReader()
    assert reader.read(MEMORIES, "Where is the vet?", words).text == "The vet is in Porto."
    assert reader.read(MEMORIES, "What is the dog called?", words).text == "My dog is Rufus."
    assert reader.read([], "Where is the vet?", words).text == reader.nothing
    tagged = f"<memory>\n<Memory>\n{render(MEMORIES, words)}\n</Memory>\n</memory>\nWhere is the vet?"
    assert reader.reply(tagged) == "The vet is in Porto."
    assert reader.reply("<message role='user'>Ben: The vet is in Porto.</message>\n\nWhere is the vet?") == (
        "Ben: The vet is in Porto."
    )


def test_a_codec_answers_from_text_in_the_form_it_learnt(answering_codec: LatentCodec) -> None:
    reader = CodecReader(answering_codec, max_new_tokens=4)
    told = reader.read(MEMORIES, "Where is the vet?", answering_codec.count_tokens, 512)
    bare = answering_codec.config.answer_layout == "reader"
    if bare:
        assert told.prompt == "I like jazz.\nMy dog is Rufus.\nThe vet is in Porto.\nWhere is the vet?"
        first = answering_codec.count_tokens(MEMORIES[0].text)
        assert reader.read(MEMORIES, "Where?", answering_codec.count_tokens, first).text_tokens == first
    else:
        assert told.prompt == quoted_prompt(render(MEMORIES, words), "Where is the vet?")
    assert reader.instructions == ("" if bare else INSTRUCTIONS)
    assert isinstance(reader.reply("Where?"), str)
    assert reader.settings()["fingerprint"] == answering_codec.fingerprint


def test_a_codec_that_marks_answers_is_no_agents_model() -> None:
    reader = CodecReader(LatentCodec.load("mini"))
    told = reader.read(MEMORIES, "Where is the vet?", reader.codec.count_tokens, 512)
    assert told.text in "The vet is in Porto."
    for ask in (lambda: reader.reply("Where?"), reader.chat_model, reader.llm):
        with pytest.raises(CannotAnswer, match="writes none"):
            ask()


def test_a_codec_that_only_reconstructs_cannot_answer(tiny_codec: LatentCodec) -> None:
    with pytest.raises(CannotAnswer, match="nextmem train reader"):
        CodecReader(tiny_codec)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    tiny.write_backbone(folder)
    # max_new_tokens stands in the call, and the tokenizer needs a class to be loaded by AutoTokenizer
    PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(folder)
    return folder


def test_any_local_model_answers(model_folder: Path) -> None:
    reader = load_reader(f"transformers:{model_folder}", options={"max_new_tokens": 3})
    assert reader.name == f"transformers:{model_folder.name}"
    assert reader.reply("Where?") == reader.reply("Where?")
    assert reader.settings()["max_new_tokens"] == 3
    assert "model.safetensors" in reader.settings()["files"]


def test_a_local_model_answers_in_its_chat_template(model_folder: Path) -> None:
    reader: Any = load_reader(f"transformers:{model_folder}", options={"max_new_tokens": 3})
    reader._tokenizer.chat_template = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
    ids = reader._inputs("Where?", "Be brief.")["input_ids"][0]
    assert reader._tokenizer.decode(ids) == "system=Be brief.;user=Where?;"


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder with a model"):
        load_reader(f"transformers:{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_reader(f"transformers:{tmp_path}")


class _Server(BaseHTTPRequestHandler):
    """Speaks as much of OpenAI's API as a reader needs; fails as often as it is told to."""

    failures: list[int]
    requests: list[dict[str, Any]]

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "little-model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append({"key": self.headers.get("Authorization"), "path": self.path, **body})
        if self.failures:
            self._send(self.failures.pop(), {"error": "not now"})
        else:
            said = f"<think>hm</think> {body['messages'][-1]['content'].upper()}"
            self._send(200, {"choices": [{"message": {"content": said}}]})

    def _send(self, status: int, body: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(failures: list[int]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    requests: list[dict[str, Any]] = []
    handler = type("Handler", (_Server,), {"failures": failures, "requests": requests})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_server_answers_and_never_sees_the_key_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sesame")
    with serving([503, 429]) as (url, requests):
        reader = load_reader(url, options={"api_key_env": "MY_KEY", "seed": 7, "wait": 0.0})
        assert reader.reply("where?") == "WHERE?"
    assert len(requests) == 3
    assert requests[-1]["key"] == "Bearer sesame"
    assert requests[-1]["path"] == "/v1/chat/completions"
    assert requests[-1]["messages"][0] == {"role": "system", "content": INSTRUCTIONS}
    assert (requests[-1]["model"], requests[-1]["temperature"], requests[-1]["seed"]) == (
        "little-model",
        0,
        7,
    )
    assert reader.name == "server:little-model"
    assert "sesame" not in json.dumps(reader.settings())


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_server_that_refuses_or_is_away_is_a_reader_error() -> None:
    with serving([400]) as (url, _):
        reader = load_reader(url, options={"model": "m", "wait": 0.0})
        with pytest.raises(ReaderError, match="refused the request, status 400"):
            reader.reply("where?")
    with pytest.raises(ReaderError, match="did not answer in 4 attempts"):
        reader.reply("where?")


def test_options_of_a_server_are_checked() -> None:
    with pytest.raises(InvalidArgument, match="no address"):
        load_reader("http:8000")
    with pytest.raises(InvalidArgument, match="'api_key' is not taken"):
        load_reader("http://127.0.0.1:1/v1", options={"api_key": "x"})


def test_any_langchain_model_is_a_reader_and_a_reader_one_of_them() -> None:
    from langchain_core.messages import HumanMessage, SystemMessage

    path = "langchain_core.language_models.fake_chat_models:FakeListChatModel"
    reader = load_reader(f"langchain:{path}", options={"responses": [" Porto "], "api_key": "sesame"})
    assert reader.reply("Where?") == "Porto"
    assert reader.settings()["options"] == {"responses": [" Porto "]}
    recording = Recording()
    reply = recording.chat_model().invoke([SystemMessage("Be brief."), HumanMessage("Where?")])
    assert (reply.text, recording.prompts, recording.systems) == ("Porto", ["Where?"], ["Be brief."])


def test_any_llama_index_llm_is_a_reader_and_a_reader_one_of_them() -> None:
    from llama_index.core.llms import ChatMessage

    reader = load_reader("llama-index:llama_index.core.llms.mock:MockLLM", options={"max_tokens": 3})
    assert reader.reply("Where?")
    recording = Recording()
    reply = recording.llm().chat([ChatMessage("Be brief.", role="system"), ChatMessage("Where?")])
    assert (reply.message.content, recording.prompts, recording.systems) == (
        "Porto",
        ["Where?"],
        ["Be brief."],
    )


def test_a_provider_by_name_needs_its_package() -> None:
    with pytest.raises(MissingExtra, match="needs a package"):
        load_reader("langchain:openai:gpt-4o-mini")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("oracle", {}, "there is no reader 'oracle'; readers are extractive"),
        ("transformers:", {}, "there is no reader"),
        ("codec", {}, "needs a codec"),
        ("extractive", {"k": 3}, "does not take these options"),
        ("llama-index:no.such:Thing", {}, "there is no class 'no.such:Thing'"),
        ("langchain:nobody:nothing", {}, "cannot be made"),
        ("langchain:langchain_core.language_models.fake_chat_models:FakeListChatModel", {}, "cannot be made"),
    ],
)
def test_a_wrong_name_or_option_is_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        load_reader(name, options=options)
