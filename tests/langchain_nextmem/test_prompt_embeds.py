"""The way out to vLLM, against a real HTTP server that checks the documented request and decodes the tensors."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from runpy import run_path
from typing import Any

import pytest
import torch
from langchain_core.messages import HumanMessage, SystemMessage

from langchain_nextmem import memory_block
from langchain_nextmem.prompt_embeds import prompt_embeds_part, served_model_name, with_prompt_embeds
from nextmem_agents import CodecMismatch, InvalidArgument, LatentCodec, MemoryNotFound, NextMem, Scope
from nextmem_agents.codec.generation import embed_prompt
from tests.codec import tiny

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

FACT = "She moved to Lisbon in May."


def decoded(part: dict[str, Any], dim: int) -> torch.Tensor:
    """A part's tensor, read and checked as vLLM documents it."""
    assert set(part) == {"type", "data"}
    data = base64.b64decode(part["data"], validate=True)
    tensor: torch.Tensor = torch.load(io.BytesIO(data), weights_only=True)
    assert tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
    assert tensor.ndim == 2
    assert tensor.shape[1] == dim
    assert len(data) < 2 * tensor.nbytes + 4096  # and no more than the tensor
    return tensor


class Handler(BaseHTTPRequestHandler):
    """``/v1/chat/completions`` as far as content parts go; the reply says what was understood."""

    server: Double

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            assert self.path == "/v1/chat/completions", self.path
            assert self.headers["Content-Type"] == "application/json"
            status, reply = 200, self._reply(body)
            if body["model"] != self.server.model:
                status, reply = 404, f"The model `{body['model']}` does not exist."
        except Exception as error:
            status, reply = 400, repr(error)
        message = {"role": "assistant", "content": reply}
        data = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _reply(self, body: dict[str, Any]) -> str:
        seen = []
        for message in body["messages"]:
            content = message["content"]
            for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                if part["type"] == "prompt_embeds":
                    tensor = decoded(part, self.server.dim)
                    self.server.tensors.append(tensor)
                    seen.append(f"{message['role']}: {len(tensor)} positions")
                else:
                    assert part["type"] == "text", part["type"]
                    seen.append(f"{message['role']}: {part['text']}")
        return " | ".join(seen)

    def log_message(self, *_: Any) -> None: ...


class Double(HTTPServer):
    """The server, without the model behind it."""

    def __init__(self, model: str, dim: int):
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.dim = model, dim
        self.tensors: list[torch.Tensor] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@pytest.fixture
def double(codec: LatentCodec) -> Iterator[Double]:
    with Double(served_model_name(codec), codec.dim) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_example_against_a_server(
    codec: LatentCodec, double: Double, capsys: pytest.CaptureFixture[str]
) -> None:
    run_path("examples/vllm_injection.py")["main"](double.url)
    printed = capsys.readouterr().out
    n = double.tensors[0].shape[0]
    assert f"memory: {n} latents in place of" in printed
    assert f"-> user: {n} positions | user: Where did I move?" in printed
    with NextMem.open(":memory:", codec=codec) as store:
        text = "I moved to Lisbon in May, into a flat above a bakery."
        note = store.scope("ann").remember(text, role="user")
        expected = codec.dequantize([_latents(store.scope("ann"), note)])
    torch.testing.assert_close(double.tensors[0], expected.values[0] * codec.config.latent_scale)


def _latents(scope: Scope, note: str) -> Any:
    memory = scope.get(note)
    (payload,) = memory.batch.payloads(memory.index)
    return payload.latents


def test_a_server_with_other_weights_refuses_and_so_do_we(
    alice: Scope, double: Double, tmp_path: Any
) -> None:
    import httpx

    note = alice.remember(FACT)
    message = HumanMessage([memory_block([note]), {"type": "text", "text": "Where?"}])
    (ready,) = with_prompt_embeds([message], alice, model=double.model, ignore_positions=True)
    request = {"model": "Qwen/Qwen3-8B", "messages": [{"role": "user", "content": ready.content}]}
    assert httpx.post(f"{double.url}/chat/completions", json=request).status_code == 404
    with pytest.raises(CodecMismatch, match="--served-model-name nextmem-"):
        with_prompt_embeds([message], alice, model="Qwen/Qwen3-8B")
    with pytest.raises(InvalidArgument, match="aligned positions"):
        with_prompt_embeds([message], alice, model=double.model)
    other = HumanMessage([memory_block(["gone"])])
    with pytest.raises(MemoryNotFound):
        with_prompt_embeds([other], alice, model=double.model, ignore_positions=True)


def test_blocks_become_parts_in_their_place_and_nothing_else_changes(tmp_path: Any) -> None:
    tiny.write_whole(tmp_path / "codec", tokens_per_latent=None, fixed_latents=5, positions="consecutive")
    codec = LatentCodec.load(tmp_path / "codec")
    with NextMem.open(":memory:", codec=codec) as store:
        scope = store.scope("alice")
        one, two = scope.remember([FACT, "The cat is called Mia."])
        text = {"type": "text", "text": "Where?"}
        messages = [SystemMessage("Be brief."), HumanMessage([text, memory_block([one, two]), text])]
        system, human = with_prompt_embeds(messages, scope, model=served_model_name(codec))
        assert system is messages[0]
        before, part, after = human.content
        assert (before, after) == (text, text)
        tensor = decoded(part, codec.dim)  # type: ignore[arg-type]
        assert len(tensor) == 10
        for i, note in enumerate((one, two)):
            assert torch.equal(
                decoded(prompt_embeds_part(scope, [note]), codec.dim), tensor[5 * i : 5 * i + 5]
            )
        latents = scope.get(one).batch.latents(0, codec)
        torch.testing.assert_close(tensor[:5], latents * codec.config.latent_scale)
        assert torch.equal(
            embed_prompt(codec, [codec.tokenizer.encode(["Where?"])[0]]),
            codec.reader.model.get_input_embeddings()(torch.tensor(codec.tokenizer.encode(["Where?"])[0])),
        )
