"""What a store keeps over closing, opening, rebuilding, dumping and verifying; in every layout."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nextmem_agents.errors import (
    CodecMismatch,
    ReadOnlyStore,
    StoreClosed,
)
from tests.store.conftest import DIM

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def test_everything_is_there_after_reopening(open_durable, record, vector, texts):
    store = open_durable()
    store.put("alice", [record("one", metadata={"n": 1}), record("two. three")])
    store.put("alice", [record("one again", "one")])
    before, near = list(store.list("alice")), store.nearest("alice", vector("three"), 2)
    history = store.history("alice", "one")
    store.close()
    store = open_durable()
    assert list(store.list("alice")) == before
    assert store.history("alice", "one") == history
    reopened = store.nearest("alice", vector("three"), 2)
    assert [version for version, _ in reopened] == [version for version, _ in near]
    assert [score for _, score in reopened] == pytest.approx([score for _, score in near], abs=1e-6)
    assert texts(store, "alice") == ["two. three", "one again"]


def test_a_closed_store_says_so(store, record):
    store.put("alice", [record("a")])
    listing = store.list("alice")
    store.close()
    store.close()
    for call in (lambda: store.count("alice"), store.scopes, store.flush, lambda: next(listing)):
        with pytest.raises(StoreClosed):
            call()


@pytest.mark.parametrize(
    "other", [{"fingerprint": "f2", "codec_name": "qwen"}, {"dim": DIM + 1, "codec_name": "qwen"}]
)
def test_another_codec_is_refused_by_name(open_durable, other):
    store = open_durable()
    for _ in range(2):  # while it is open, and when it is opened again
        with pytest.raises(CodecMismatch, match=r"'mini'.*'qwen'.*open it with the codec that wrote it"):
            open_durable(**other)
        store.close()
    assert open_durable().count("alice") == 0


def test_read_only_reads_and_refuses_to_write(open_durable, record, vector):
    store = open_durable()
    store.put("alice", [record("a"), record("b")])
    reader = open_durable(read_only=True)
    store.put("alice", [record("c")])
    assert len(reader.nearest("alice", vector("a"), 5)) == 3
    for write in (
        lambda: reader.put("alice", [record("d")]),
        lambda: reader.forget("alice", ids=["a"]),
        lambda: reader.clear("alice"),
        lambda: reader.rebuild(),
    ):
        with pytest.raises(ReadOnlyStore):
            write()
    assert store.count("alice") == 3


def test_sizes_tell_the_parts_apart(store, record):
    empty = store.sizes()
    store.put("alice", [record(f"some words {i}") for i in range(300)])
    sizes = store.sizes()
    assert sizes.keys() == {"payloads", "vectors", "lexical", "records", "chroma"}
    assert sizes["records"] > empty["records"]
    assert sizes["payloads"] >= sum(len(f"some words {i}") for i in range(300))
    assert sizes["vectors"] >= 300 * DIM * 4
    assert sizes["payloads"] + sizes["vectors"] + sizes["lexical"] < sizes["records"]


def test_rebuild_leaves_every_memory_where_it_was(open_store, record, vector, texts):
    store = open_store(exact_limit=1)
    store.put("alice", [record(f"m{i}") for i in range(30)])
    steps = []
    assert store.rebuild(lambda done, total: steps.append((done, total))) == 30
    assert steps[-1] == (30, 30)
    assert texts(store, "alice") == [f"m{i}" for i in range(30)]
    [(version, score)] = store.nearest("alice", vector("m7"), 1)
    assert store.records("alice", [version])[version].id == "m7"
    assert score == pytest.approx(1.0, abs=1e-6)


def test_a_dump_put_elsewhere_is_the_same_store(open_durable, open_layout, record, vector, texts):
    store = open_durable()
    store.put("s", [record("one. two", "m", session="x", role="user", metadata={"k": 1}), record("other")])
    store.put("s", [record("three", "m", importance=0.5, derived_from="chat 7")])
    dumped = list(store.dump("s"))
    assert [(each.id, len(each.payloads)) for each in dumped] == [("m", 2), ("other", 1), ("m", 1)]
    copy = open_layout("embedded-copy")
    copy.put("s", dumped)
    ignored = {"version": 0}
    for id_ in ("m", "other"):
        mine, theirs = store.history("s", id_), copy.history("s", id_)
        assert [replace(r, **ignored) for r in mine] == [replace(r, **ignored) for r in theirs]
    assert texts(copy, "s") == texts(store, "s")
    assert copy.nearest("s", vector("three"), 1)[0][1] == pytest.approx(1.0, abs=1e-6)
    assert copy.postings("s", ["three"]).terms["three"].document_frequency == 1


def test_verify_walks_every_version_and_reports_what_is_damaged(open_durable, record):
    store = open_durable()
    store.put("s", [record("a. b", "m"), record("bad")])
    store.put("s", [record("new", "m")])
    store.put("t", [record("c")])
    report = store.verify(lambda scope, record, payloads: None)
    assert (report.n_memories, report.n_versions, report.n_chunks) == (3, 4, 5)
    assert report.sound
    report = store.verify(lambda scope, record, payloads: "it is bad" if payloads == [b"bad"] else None)
    [damage] = report.damaged
    assert (damage.scope, damage.id, damage.reason) == ("s", "bad", "it is bad")
    assert not report.sound
    store.compact()
    assert (store.count("s"), store.count("t")) == (2, 1)
