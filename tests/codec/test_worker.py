from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from nextmem_agents.codec.worker import Caller, CodecWorker, current_caller, on_behalf_of


class Recorder:
    """Work that notes its batches, and can be held back."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.free.set()
        self.began = threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.began.set()
        self.free.wait(5)
        if 13 in items:
            raise ValueError("thirteen")
        return [10 * item for item in items]


@pytest.fixture
def work() -> Recorder:
    return Recorder()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as pool:
        yield pool


def held(worker: CodecWorker, work: Recorder, pool: ThreadPoolExecutor) -> None:
    """Keep the worker busy until ``work.free`` is set."""
    work.free.clear()
    pool.submit(worker.run, "w", work, [0], Caller("first"))
    assert work.began.wait(5)


def waiting(worker: CodecWorker, n: int) -> None:
    """Wait until so many items wait."""
    until = time.monotonic() + 5
    while worker._waiting < n:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_what_arrives_together_is_one_batch_and_each_gets_its_own(
    work: Recorder, pool: ThreadPoolExecutor
) -> None:
    worker = CodecWorker()
    held(worker, work, pool)
    asked = [pool.submit(worker.run, "w", work, [i, i + 100], Caller(i)) for i in range(1, 11)]
    waiting(worker, 20)
    work.free.set()
    assert [f.result(5) for f in asked] == [[10 * i, 10 * i + 1000] for i in range(1, 11)]
    assert [len(batch) for batch in work.batches] == [1, 20]


def test_other_work_is_another_batch(work: Recorder, pool: ThreadPoolExecutor) -> None:
    worker, other = CodecWorker(), Recorder()
    held(worker, work, pool)
    asked = [pool.submit(worker.run, key, w, [1], Caller(key)) for key, w in (("w", work), ("o", other))]
    waiting(worker, 2)
    work.free.set()
    assert [f.result(5) for f in asked] == [[10], [10]]
    assert (work.batches, other.batches) == ([[0], [1]], [[1]])


def test_a_failed_request_disturbs_no_other(work: Recorder, pool: ThreadPoolExecutor) -> None:
    worker = CodecWorker()
    held(worker, work, pool)
    asked = [pool.submit(worker.run, "w", work, [i], Caller(i)) for i in (12, 13, 14)]
    waiting(worker, 3)
    work.free.set()
    assert (asked[0].result(5), asked[2].result(5)) == ([120], [140])
    with pytest.raises(ValueError, match="thirteen"):
        asked[1].result(5)


def test_a_cancelled_request_is_not_begun_and_disturbs_no_other(
    work: Recorder, pool: ThreadPoolExecutor
) -> None:
    worker, leaving = CodecWorker(), Caller("leaving")
    held(worker, work, pool)
    gone = pool.submit(worker.run, "w", work, [7], leaving)
    stays = pool.submit(worker.run, "w", work, [8], Caller("stays"))
    waiting(worker, 2)
    leaving.cancelled = True
    work.free.set()
    assert stays.result(5) == [80]
    with pytest.raises(CancelledError):
        gone.result(5)
    assert work.batches == [[0], [8]]


def test_who_asks_for_much_does_not_hold_up_who_asks_for_little(
    work: Recorder, pool: ThreadPoolExecutor
) -> None:
    worker = CodecWorker(max_batch=8)
    held(worker, work, pool)
    greedy = pool.submit(worker.run, "w", work, list(range(100, 200)), Caller("greedy"))
    waiting(worker, 100)
    modest = [pool.submit(worker.run, "w", work, [i], Caller(i)) for i in (1, 2, 3)]
    waiting(worker, 103)
    work.free.set()
    assert [f.result(5) for f in modest] == [[10], [20], [30]]
    assert greedy.result(5) == [10 * i for i in range(100, 200)]
    assert {1, 2, 3} <= {item for batch in work.batches[1:3] for item in batch}
    assert max(map(len, work.batches)) <= 8


def test_callers_of_one_name_take_one_turn(work: Recorder, pool: ThreadPoolExecutor) -> None:
    worker = CodecWorker(max_batch=2)
    held(worker, work, pool)
    many = [pool.submit(worker.run, "w", work, [i], Caller("many")) for i in range(20, 28)]
    waiting(worker, 8)
    one = pool.submit(worker.run, "w", work, [1], Caller("one"))
    waiting(worker, 9)
    work.free.set()
    assert one.result(5) == [10]
    assert [f.result(5) for f in many] == [[10 * i] for i in range(20, 28)]
    assert 1 in work.batches[1]


def test_too_much_at_once_has_to_wait(work: Recorder, pool: ThreadPoolExecutor) -> None:
    worker = CodecWorker(max_batch=4, max_waiting=4)
    held(worker, work, pool)
    asked = [pool.submit(worker.run, "w", work, [i], Caller(i)) for i in range(20, 50)]
    waiting(worker, 4)
    time.sleep(0.05)
    assert worker._waiting == 4
    work.free.set()
    assert sorted(f.result(5)[0] for f in asked) == [10 * i for i in range(20, 50)]


def test_under_load_none_starves(work: Recorder, pool: ThreadPoolExecutor) -> None:
    worker, done = CodecWorker(max_batch=8), Counter[int]()
    until = time.monotonic() + 0.4

    def client(name: int) -> None:
        while time.monotonic() < until:
            assert worker.run("w", lambda items: time.sleep(0.002) or items, [name], Caller(name)) == [name]
            done[name] += 1

    list(pool.map(client, range(32)))
    assert len(done) == 32
    assert min(done.values()) >= 0.2 * max(done.values())


def test_the_caller_is_known_only_where_it_was_named() -> None:
    assert current_caller() is None
    with on_behalf_of(caller := Caller("alice")):
        assert current_caller() is caller
    assert current_caller() is None


def test_nothing_takes_no_turn(work: Recorder) -> None:
    assert CodecWorker().run("w", work, [], Caller("a")) == []
    assert not work.batches


def test_a_worker_that_cannot_be_started_once_is_started_the_next_time(
    work: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = CodecWorker()

    def refusing(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refusing)
        with pytest.raises(RuntimeError, match="can't start"):
            worker.run("w", work, [1], Caller("a"))
    assert worker.run("w", work, [2], Caller("b")) == [20]
    assert work.batches == [[2]]  # nobody waits for the first
