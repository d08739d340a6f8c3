"""Update, history, validity, repeats, decay, transfer, migration and encryption through the facade."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from nextmem_agents import (
    CodecMismatch,
    DataError,
    InvalidArgument,
    LatentCodec,
    MemoryNotFound,
    NewerFormat,
    NextMem,
    Scope,
)
from nextmem_agents.errors import KeyMissing
from nextmem_agents.items import Item
from nextmem_agents.scope import Decay
from nextmem_agents.store import clock
from tests.codec import tiny

MAY = datetime(2024, 5, 1, tzinfo=timezone.utc)
JUNE = MAY + timedelta(days=31)


@pytest.fixture
def alice(memory: NextMem) -> Scope:
    return memory.scope("alice")


@pytest.fixture
def kept(tmp_path: Path, codec: LatentCodec) -> Iterator[NextMem]:
    with NextMem.open(tmp_path / "memory", codec=codec) as memory:
        yield memory


def test_update_keeps_what_is_not_given_and_the_past(alice: Scope) -> None:
    note = alice.remember(
        "She lives in Lisbon.", session="s", role="user", metadata={"n": 1}, importance=0.5, valid_from=MAY
    )
    after = alice.update(
        note, "She lives in Porto.", valid_from=JUNE, written_by="ann", derived_from="mail 7"
    )
    assert (after.text, after.session, after.role, after.metadata) == (
        "She lives in Porto.",
        "s",
        "user",
        {"n": 1},
    )
    assert (after.record.importance, after.record.written_by, after.record.derived_from) == (
        0.5,
        "ann",
        "mail 7",
    )
    former, present = alice.history(note)
    assert (former.text, former.record.valid_to) == ("She lives in Lisbon.", JUNE)
    assert (present.text, present.record.valid_to) == ("She lives in Porto.", None)
    renamed = alice.update(note, metadata={"n": 2})
    assert (renamed.text, renamed.metadata, renamed.record.written_by) == (
        "She lives in Porto.",
        {"n": 2},
        None,
    )
    assert len(alice.history(note)) == 3
    with pytest.raises(MemoryNotFound):
        alice.update("unknown", "x")


def test_what_did_we_believe_in_may(alice: Scope) -> None:
    note = alice.remember("Her office is in Lisbon.", valid_from=MAY)
    alice.update(note, "Her office is in Porto.", valid_from=JUNE)
    question = "Where is her office?"
    for ranking in ("hybrid", "latent", "lexical"):
        assert alice.recall(question, ranking=ranking)[0].text == "Her office is in Porto."  # type: ignore[arg-type]
        [then] = alice.recall(question, ranking=ranking, as_of=MAY)  # type: ignore[arg-type]
        assert (then.text, then.id) == ("Her office is in Lisbon.", note)
        assert then.exact
    assert [m.text for m in alice.list(as_of=MAY)] == ["Her office is in Lisbon."]
    assert list(alice.list(as_of=MAY - timedelta(days=1))) == []
    assert len(alice.recall("Lisbon?", ranking="lexical")) == 0


def test_a_successor_takes_the_place_of_a_memory(alice: Scope) -> None:
    old = alice.remember("He works at the bank.")
    new = alice.remember("He works at the museum.", supersedes=old)
    assert [m.id for m in alice.list()] == [new]
    assert alice.get(old).record.valid_to == alice.get(new).record.valid_from


def test_what_has_lived_its_time_is_gone(alice: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    note = alice.remember("The code is 4711.", ttl=60)
    alice.remember("The code is long.", ttl=timedelta(days=9))
    assert len(alice.recall("What is the code?")) == 2
    later = clock.utc_now() + timedelta(seconds=61)
    monkeypatch.setattr(clock, "_latest", later)
    assert [hit.text for hit in alice.recall("What is the code?")] == ["The code is long."]
    with pytest.raises(MemoryNotFound):
        alice.get(note)
    for ttl in (0, -1, True, "1h"):
        with pytest.raises(InvalidArgument, match="ttl"):
            alice.remember("x", ttl=ttl)  # type: ignore[call-overload]
    with pytest.raises(InvalidArgument, match="either"):
        alice.remember("x", ttl=1, expires_at=JUNE)


def test_exact_repeats_fold_within_a_session(alice: Scope) -> None:
    first = alice.remember("Yes.", session="s", role="user")
    assert alice.remember("Yes.", session="s", role="user", dedupe=True) == first
    assert alice.remember(["Yes.", "No.", "No."], session="s", role="user", dedupe=True)[0] == first
    assert alice.remember("Yes.", session="s", role="assistant", dedupe=True) != first
    assert alice.remember("Yes.", session="t", role="user", dedupe=True) != first
    assert alice.count() == 4


def test_near_duplicates_fold_above_a_visible_threshold_only(alice: Scope) -> None:
    first = alice.remember("The meeting is on Tuesday morning.", session="s")
    other = alice.remember("The meeting is on Tuesday morning!", session="s", near_duplicates=1.0)
    assert other != first
    assert alice.remember("The meeting is on Tuesday morning.", session="s", near_duplicates=0.999) == first
    assert (
        alice.remember("Cats like to sleep in the sun all day.", session="s", near_duplicates=0.99) != first
    )
    assert alice.remember("The meeting is on Tuesday morning.", session="t", near_duplicates=0.999) != first
    with pytest.raises(InvalidArgument, match="near_duplicates"):
        alice.remember("x", near_duplicates=1.5)


def test_decay_ranks_but_never_deletes(alice: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    old = alice.remember("The red house is old.")
    later = clock.utc_now() + timedelta(days=300)
    monkeypatch.setattr(clock, "_latest", later)
    new = alice.remember("The red house is big and it is standing on a hill.")
    assert alice.recall("red house", k=2)[0].id == old
    decay = Decay(timedelta(days=30), weight=0.9)
    hits = alice.recall("red house", k=2, decay=decay)
    assert [hit.id for hit in hits] == [new, old]
    assert hits[1].score > 0
    # Recalled just now, both are fresh again.
    assert alice.recall("red house", k=2, decay=decay)[0].id == old
    with pytest.raises(InvalidArgument, match="weight"):
        Decay(weight=2)


def test_pages(alice: Scope) -> None:
    ids = alice.remember([f"note {i}" for i in range(5)])
    assert [m.id for m in alice.list(limit=2)] == ids[:2]
    assert [m.id for m in alice.list(limit=2, after=ids[1])] == ids[2:4]
    assert [m.id for m in alice.list(newest_first=True, limit=2, after=ids[1])] == ids[:1]


def test_unknown_fields_are_refused_with_the_place_where_they_belong(alice: Scope) -> None:
    with pytest.raises(InvalidArgument, match="metadata"):
        alice.remember("x", colour="red")


def test_an_export_comes_back_with_its_history_in_another_scope(
    memory: NextMem, alice: Scope, tmp_path: Path
) -> None:
    note = alice.remember("One.", metadata={"n": 1}, session="s")
    alice.update(note, "Two.")
    alice.remember("A longer text. " * 40)
    file = tmp_path / "alice.jsonl"
    assert alice.export(file) == 3
    bob = memory.scope("bob")
    assert bob.import_(file) == 2
    assert [m.text for m in bob.list()] == [m.text for m in alice.list()]
    assert [(m.text, m.created_at, m.updated_at) for m in bob.history(note)] == [
        (m.text, m.created_at, m.updated_at) for m in alice.history(note)
    ]
    assert bob.recall("Two", k=1)[0].exact is None
    with pytest.raises(InvalidArgument, match="skip_existing"):
        bob.import_(file)
    assert bob.import_(file, skip_existing=True) == 0
    assert not [*tmp_path.glob("*.part")]


def test_an_import_refuses_what_was_altered_and_writes_nothing(
    memory: NextMem, alice: Scope, tmp_path: Path, tiny_codec: LatentCodec
) -> None:
    alice.remember(["One.", "Two."])
    file = tmp_path / "alice.jsonl"
    alice.export(file)
    data = file.read_bytes()
    bob = memory.scope("bob")
    broken = [
        data[:-20],
        data.replace(b'"importance"', b'"Importance"').replace(b"user", b"USER"),
        b"",
        b"{}\n",
        data[5:],
    ]
    lines = data.splitlines(keepends=True)
    broken += [b"".join(lines[:1] + lines[2:]), b"".join(lines[:-1])]
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    broken.append(bytes(flipped))
    for content in broken:
        file.write_bytes(content)
        if content == data:
            continue
        with pytest.raises((DataError, CodecMismatch)):
            bob.import_(file)
        assert bob.count() == 0
    header = json.loads(lines[0])
    file.write_bytes(json.dumps(header | {"version": 99}).encode() + b"\n" + b"".join(lines[1:]))
    with pytest.raises(NewerFormat):
        bob.import_(file)
    file.write_bytes(data)
    with NextMem.open(":memory:", codec=tiny_codec) as other, pytest.raises(CodecMismatch, match="migrate"):
        other.scope("bob").import_(file)
    with pytest.raises(DataError):
        bob.import_(tmp_path / "absent")


@pytest.fixture
def tiny_codec(tmp_path: Path) -> LatentCodec:
    folder = tmp_path / "tiny"
    tiny.write_whole(folder)
    return LatentCodec.load(folder)


def test_migration_to_another_codec_is_exact_and_resumes(
    memory: NextMem, alice: Scope, tiny_codec: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = alice.remember("One.", metadata={"n": 1})
    alice.update(note, "Two.")
    alice.remember(["Three and more.", "Four."])
    memory.scope("bob").remember("Bob's.")
    with NextMem.open(":memory:", codec=tiny_codec) as other:
        plan = memory.migrate_to(other, dry_run=True)
        assert (plan.migrated, plan.there_before, plan.damaged, other.scopes()) == (5, 0, (), [])
        monkeypatch.setattr("nextmem_agents.scope.migration.BATCH", 1)
        puts = 0
        put = other._store.put

        def failing(*arguments: object) -> list[str]:
            nonlocal puts
            puts += 1
            if puts > 2:
                raise KeyboardInterrupt
            return put(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(other._store, "put", failing)
        with pytest.raises(KeyboardInterrupt):
            memory.migrate_to(other)
        monkeypatch.setattr(other._store, "put", put)
        done = memory.migrate_to(other)
        assert (done.migrated, done.there_before) == (3, 2)
        for scope in ("alice", "bob"):
            before, after = memory.scope(scope), other.scope(scope)
            assert [(m.id, m.text, m.exact) for m in after.list()] == [
                (m.id, m.text, True) for m in before.list()
            ]
        assert [m.text for m in other.scope("alice").history(note)] == ["One.", "Two."]
    with pytest.raises(InvalidArgument, match="itself"):
        memory.migrate_to(memory)


def test_verify_names_a_memory_whose_bytes_were_altered(kept: NextMem, tmp_path: Path) -> None:
    import sqlite3

    alice = kept.scope("alice")
    alice.remember(["One.", "Two.", "Three."], id=["1", "2", "3"])
    assert kept.verify(texts=True).sound
    database = sqlite3.connect(tmp_path / "memory" / "records.sqlite3")
    [(version, payload)] = database.execute(
        "SELECT p.version, payload FROM payloads AS p JOIN memories AS m USING (version) WHERE id = '2'"
    )
    altered = bytearray(payload)
    altered[20] ^= 1
    database.execute("UPDATE payloads SET payload = ? WHERE version = ?", (bytes(altered), version))
    database.commit()
    database.close()
    report = kept.verify()
    assert [(d.scope, d.id) for d in report.damaged] == [("alice", "2")]
    assert not report.sound
    assert [m.text for m in alice.list(where={"id": {"$ne": "2"}})] == ["One.", "Three."]


def test_an_encrypted_scope_keeps_no_readable_byte_and_no_words(tmp_path: Path, codec: LatentCodec) -> None:
    folder = tmp_path / "memory"
    with NextMem.open(folder, codec=codec, encryption_key="open sesame") as memory:
        alice = memory.scope("alice", encrypted=True)
        note = alice.remember("zzqqxx 9182736455 zzqqxx")
        alice.remember("Lisbon is a city.", session="s")
        assert alice.remember("Lisbon is a city.", session="s", dedupe=True) == [*alice.list()][1].id
        assert alice.encrypted
        assert alice.get(note).text == "zzqqxx 9182736455 zzqqxx"
        assert len(alice.recall("Lisbon", k=1)) == 1
        with pytest.raises(InvalidArgument, match="lexical"):
            alice.recall("Lisbon", ranking="lexical")
        assert memory.verify(texts=True).sound
        memory.scope("bob").remember("plain zzqqyy 9182736455")
        with pytest.raises(InvalidArgument, match="not encrypted"):
            memory.scope("bob", encrypted=True)
    everything = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert b"zzqqyy" in everything
    assert b"zzqqxx" not in everything
    for wrong in ("another", bytes(32), None):
        with pytest.raises(KeyMissing):
            NextMem.open(folder, codec=codec, encryption_key=wrong)
    with NextMem.open(folder, codec=codec, encryption_key="open sesame") as memory:
        alice = memory.scope("alice")
        assert alice.encrypted
        assert alice.get(note).text == "zzqqxx 9182736455 zzqqxx"
        keys = (folder / "keys.json").read_text()
        memory.scope("alice").export(tmp_path / "out")
        assert memory.scope("carol", encrypted=True).import_(tmp_path / "out") == 2
        receipt = alice.erase()
        assert receipt.key_erased
        assert keys != (folder / "keys.json").read_text()
        assert next(memory.scope("carol").list()).text == "zzqqxx 9182736455 zzqqxx"
        assert memory.scope("alice").encrypted is False


def test_without_its_key_an_encrypted_memory_is_an_error_and_not_a_text(
    tmp_path: Path, codec: LatentCodec
) -> None:
    folder = tmp_path / "memory"
    with NextMem.open(folder, codec=codec) as memory:
        note = memory.scope("alice", encrypted=True).remember("secret")
    (folder / "keys.json").unlink()
    with NextMem.open(folder, codec=codec) as memory:
        with pytest.raises(KeyMissing, match=r"keys\.json"):
            _ = memory.scope("alice").get(note).text
        assert not memory.verify().sound


def test_an_update_of_what_is_forgotten_meanwhile_does_not_bring_it_back(codec: LatentCodec) -> None:
    def forget_first(item: Item) -> Item:
        if item.text == "anew":
            scope.forget(["m"])
        return item

    scope = NextMem.open(":memory:", codec=codec, on_remember=forget_first).scope("ann")
    scope.remember("A note.", id="m")
    with pytest.raises(MemoryNotFound):
        scope.update("m", "anew")
    assert scope.count() == 0


def test_of_two_updates_at_once_neither_is_lost(codec: LatentCodec) -> None:
    def change_role_first(item: Item) -> Item:
        if item.metadata and item.role is None:
            scope.update("m", role="user")
        return item

    scope = NextMem.open(":memory:", codec=codec, on_remember=change_role_first).scope("ann")
    scope.remember("A note.", id="m")
    memory = scope.update("m", metadata={"year": 2024})
    assert (memory.role, memory.metadata, len(scope.history("m"))) == ("user", {"year": 2024}, 3)
