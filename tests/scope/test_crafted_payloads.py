"""A payload that its writer made up is one damaged memory: no other is touched by it, and no read waits for it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import pytest

from nextmem_agents import DataError, LatentCodec, NextMem
from nextmem_agents.errors import DamagedRecord
from nextmem_agents.quantization import Payload, QuantizedLatents, encode_binding

CRAFTED: dict[str, Callable[[Payload], Payload]] = {
    "a token that there is not": lambda p: replace(p, repair=((3, 10**6),), n_wrong=1),
    "another width": lambda p: replace(
        p, latents=QuantizedLatents("per_latent", bytes(32), b"\x38", (1, 64))
    ),
    "another scheme": lambda p: replace(
        p, latents=QuantizedLatents("per_dimension", bytes(128), b"\x38" * 256, (1, 256))
    ),
    "more tokens than its latents hold": lambda p: replace(p, n_tokens=65_536),
    "more latents than its tokens fill": lambda p: replace(
        p, latents=QuantizedLatents("per_latent", bytes(128 * 4096), b"\x38" * 4096, (4096, 256))
    ),
    "another codec": lambda p: replace(p, codec_id=b"\0\0\0\0"),
}


def crafted(path: Path, craft: Callable[[Payload], Payload]) -> None:
    """Change the payload of memory ``2`` in an exported file, whose checksums are made anew."""
    *lines, last = path.read_bytes().splitlines()
    for i, line in enumerate(lines):
        values = json.loads(line)
        if values.get("id") == "2":
            binding = encode_binding("a", "2", "0")
            payload = Payload.from_bytes(base64.b64decode(values["payloads"][0]), binding)
            values["payloads"] = [base64.b64encode(craft(payload).to_bytes(binding)).decode()]
            lines[i] = json.dumps(values).encode()
    body = b"".join(line + b"\n" for line in lines)
    end = json.loads(last) | {"blake2b": blake2b(body, digest_size=32).hexdigest()}
    path.write_bytes(body + json.dumps(end).encode() + b"\n")


@pytest.mark.parametrize("craft", CRAFTED.values(), ids=list(CRAFTED))
def test_a_crafted_payload(
    codec: LatentCodec, memory: NextMem, tmp_path: Path, craft: Callable[[Payload], Payload]
) -> None:
    texts = [f"The weather on day {i} was fine in Lisbon." for i in range(5)]
    scope = memory.scope("a")
    scope.remember(texts, id=[str(i) for i in range(5)])
    file = tmp_path / "a.jsonl"
    scope.export(file)
    crafted(file, craft)
    with NextMem.open(":memory:", codec=codec) as other, pytest.raises(DataError, match="'2'"):
        other.scope("b").import_(file)
    # As whoever writes to the store's files could.
    [record] = [record for record in memory._store.dump("a") if record.id == "2"]
    binding = encode_binding("a", "2", "0")
    payload = craft(Payload.from_bytes(record.payloads[0], binding))
    memory._store.forget("a", ["2"])
    memory._store.put("a", [replace(record, payloads=[payload.to_bytes(binding)])])
    for ranking in ("hybrid", "latent"):
        hits = {hit.id: hit for hit in scope.recall("fine weather in Lisbon", ranking=ranking)}
        assert [hits[str(i)].text for i in (0, 1, 3, 4)] == [texts[i] for i in (0, 1, 3, 4)]
        if ranking == "hybrid":
            with pytest.raises(DamagedRecord, match="'2'"):
                _ = hits["2"].text
    assert [damage.id for damage in memory.verify(texts=True).damaged] == ["2"]
    with NextMem.open(":memory:", codec=codec) as other:
        assert [damage.id for damage in memory.migrate_to(other).damaged] == ["2"]
        assert other.scope("a").count() == 4
