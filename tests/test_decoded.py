"""Texts are decoded once; what is kept of them crosses no scope and outlives no deletion."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.codec.exact import DecompressedText
from nextmem_agents.quantization import Payload, text_checksum
from nextmem_agents.scope import base
from nextmem_agents.scope.decoded import DecodedTexts, decoded_texts

NOTE = "She moved to Lisbon in May."


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many memories each call of the decoder took."""
    calls: list[int] = []
    plain = base.decompress

    def counting(codec: LatentCodec, memories: Sequence[Sequence[Payload]]) -> list[DecompressedText]:
        calls.append(len(memories))
        return plain(codec, memories)

    monkeypatch.setattr(base, "decompress", counting)
    return calls


def test_the_same_memory_is_decoded_once(memory: NextMem, decodings: list[int]) -> None:
    alice = memory.scope("alice")
    note = alice.remember(NOTE)
    assert [memory.scope("alice").get(note).text for _ in range(3)] == [NOTE] * 3
    hit = alice.recall("Lisbon")[0]
    assert (hit.text, hit.exact) == (NOTE, True)
    assert decodings == [1]


def test_another_scope_decodes_its_own(memory: NextMem, decodings: list[int]) -> None:
    for name in ("alice", "bob"):
        scope = memory.scope(name)
        assert scope.get(scope.remember(NOTE)).text == NOTE
    assert decodings == [1, 1]


def test_a_new_version_gets_its_own_text(memory: NextMem) -> None:
    scope = memory.scope("a")
    scope.remember(NOTE, id="n")
    assert scope.get("n").text == NOTE
    scope.remember("She moved to Porto in May.", id="n")
    assert [m.text for m in scope.history("n")] == [NOTE, "She moved to Porto in May."]


@pytest.mark.parametrize("how", ["forget", "clear", "erase", "purge"])
def test_nothing_is_kept_of_what_was_deleted(memory: NextMem, how: str) -> None:
    scope, kept = memory.scope("a"), decoded_texts(memory._store)
    note = scope.remember(NOTE, ttl=timedelta(days=1))
    assert scope.get(note).text == NOTE
    assert len(kept) == 1
    {
        "forget": lambda: scope.forget([note]),
        "clear": scope.clear,
        "erase": scope.erase,
        "purge": memory.purge,
    }[how]()
    assert len(kept) == 0


def test_an_encrypted_scope_keeps_none(memory: NextMem) -> None:
    pytest.importorskip("cryptography")
    scope = memory.scope("secret", encrypted=True)
    note = scope.remember(NOTE)
    assert [scope.get(note).text, scope.get(note).text] == [NOTE, NOTE]
    assert len(decoded_texts(memory._store)) == 0


def literal(text: str) -> list[Payload]:
    data = text.encode()
    return [Payload(b"mini", 1, text_checksum(data), len(data), literal=data)]


def test_what_was_used_last_stays_and_the_bytes_are_bounded() -> None:
    kept, decoded = DecodedTexts(max_bytes=5000), []

    def decode(memories: Sequence[Sequence[Payload]]) -> list[DecompressedText]:
        decoded.extend(memories)
        return [DecompressedText((p[0].literal or b"").decode(), True) for p in memories]

    for i in range(50):
        kept.texts("a", [literal("first"), literal(f"other {i}")], decode)
    assert len(decoded) == 51
    assert 2 <= len(kept) <= 6
    kept.texts("a", [literal("x" * 5000)], decode)
    assert kept.texts("a", [literal("first")], decode)[0].text == "first"
    assert len(decoded) == 52


def test_a_text_that_is_not_proven_is_not_kept() -> None:
    kept = DecodedTexts()
    kept.texts("a", [literal("?")], lambda memories: [DecompressedText("!", False) for _ in memories])
    assert len(kept) == 0


def test_what_was_deleted_while_it_was_decoded_is_not_kept() -> None:
    kept = DecodedTexts()

    def decode(memories: Sequence[Sequence[Payload]]) -> list[DecompressedText]:
        kept.drop("a")
        return [DecompressedText("text", True) for _ in memories]

    assert kept.texts("a", [literal("text")], decode)[0].text == "text"
    assert len(kept) == 0
