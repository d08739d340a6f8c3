"""Several processes: one writes, others read, a killed one loses nothing, a forked one is refused."""

from __future__ import annotations

import os
import signal
import time
import warnings

import pytest

from nextmem_agents.errors import StoreError, StoreLocked


def wait_for(child, line):
    for read in child.stdout:
        if read.strip() == line:
            return
    pytest.fail(f"the child ended before it said {line!r}")


def test_a_second_writer_is_refused_and_told_who_holds_the_folder(process, open_store, record):
    child = process(
        "store = open_store(); store.put('alice', [record_of('a')]); print('ready', flush=True); input()"
    )
    wait_for(child, "ready")
    with pytest.raises(StoreLocked, match=rf"process {child.pid} on .*read_only=True.*Chroma server"):
        open_store()
    reader = open_store(read_only=True)
    assert reader.count("alice") == 1
    child.communicate("\n")
    store = open_store()
    store.put("alice", [record("b")])
    assert reader.count("alice") == 2


def test_a_reader_follows_a_writer(process, open_store, record, vector):
    child = process(
        "store = open_store()\n"
        "for i in range(400):\n"
        "    store.put('alice', [record_of(f'm{i}')])\n"
        "    if i == 0: print('ready', flush=True)\n"
        "print('done', flush=True); input()"
    )
    wait_for(child, "ready")
    reader = open_store(read_only=True)
    seen = 0
    while seen < 400:
        found = reader.nearest("alice", vector("m0"), 1000)
        assert len(found) >= seen
        assert found[0][1] == pytest.approx(1.0, abs=1e-6)
        seen = len(found)
        time.sleep(0.01)
    wait_for(child, "done")
    child.communicate("\n")
    assert [found.id for found in reader.list("alice")] == [f"m{i}" for i in range(400)]


@pytest.mark.parametrize("acknowledged", [40, 600])
def test_a_killed_writer_loses_no_acknowledged_memory(process, open_store, vector, acknowledged):
    child = process(
        "store = open_store()\n"
        "for i in range(100_000):\n"
        "    store.put('alice', [record_of(f'm{i}')])\n"
        "    print(i, flush=True)"
    )
    wait_for(child, str(acknowledged))
    child.send_signal(signal.SIGKILL)
    # communicate() would leave out what stands in the pipe's buffer already.
    said = [int(line) for line in child.stdout.read().split()] or [acknowledged]
    child.wait()
    store = open_store(exact_limit=1)
    ids = [found.id for found in store.list("alice")]
    assert ids[: said[-1] + 1] == [f"m{i}" for i in range(said[-1] + 1)]
    assert len(ids) <= said[-1] + 2  # at most the one in flight, and then whole
    for i in (0, said[-1] // 2, said[-1]):
        [(version, score)] = store.nearest("alice", vector(f"m{i}"), 1)
        assert store.records("alice", [version])[version].id == f"m{i}"
        assert score == pytest.approx(1.0, abs=1e-6)
    assert store.rebuild() == len(ids)


def in_fork(work):
    """What ``work()`` returned in a forked child, as text."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside threads, which is what this is about.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            said = work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, str(said).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as answer:
        return answer.read()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_is_refused_and_does_the_parent_no_harm(open_store, process, record):
    store = open_store()
    store.put("alice", [record("a")])
    store.flush()
    assert in_fork(lambda: store.count("alice")).startswith("StoreError: this store was opened in process")
    assert in_fork(store.close) == "None"
    assert in_fork(open_store).startswith("StoreLocked")
    assert in_fork(lambda: open_store(read_only=True).count("alice")) == "1"
    store.put("alice", [record("b")])
    assert store.count("alice") == 2
    child = process("open_store()")
    assert "StoreLocked" in child.communicate()[0]


def test_a_store_is_not_opened_where_it_cannot_be_locked(open_store, folder):
    (folder / "writer.lock").mkdir(parents=True)
    with pytest.raises(StoreError):
        open_store()


def test_importing_the_store_does_not_import_chroma(process):
    child = process("print('chromadb' in sys.modules or 'torch' in sys.modules)")
    assert child.communicate()[0].strip() == "False"
