"""Batches of rows of like length, several at once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents import LatentCodec
from nextmem_agents.codec import batches
from nextmem_agents.codec.batches import LEAST_EACH, at_once, by_length, in_batches


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@given(st.lists(st.integers(1, 99), max_size=40), st.integers(1, 5), st.integers(1, 3))
def test_every_row_is_in_one_batch_beside_rows_of_like_length(
    lengths: list[int], size: int, threads: int
) -> None:
    batches = list(by_length(lengths, size, threads))
    assert sorted(row for group in batches for part in group for row in part) == list(range(len(lengths)))
    assert all(0 < len(part) <= size for group in batches for part in group)
    assert all(len(group) <= threads for group in batches)
    longest = [max(lengths[row] for part in group for row in part) for group in batches]
    shortest = [min(lengths[row] for part in group for row in part) for group in batches]
    assert all(a <= b for a, b in zip(longest, shortest[1:], strict=False))


@pytest.mark.parametrize("n", [1, 2 * LEAST_EACH - 1, 2 * LEAST_EACH, 200])
def test_results_come_in_the_order_of_the_rows(n: int) -> None:
    lengths = [(7 * i) % 13 + 1 for i in range(n)]
    assert in_batches(lengths, lambda rows: [10 * row for row in rows], True) == [10 * i for i in range(n)]


def test_many_rows_are_done_by_several_threads_of_one_thread_each() -> None:
    ran: set[tuple[str, int]] = set()
    both = threading.Barrier(2, timeout=30)

    def work(rows: list[int]) -> list[int]:
        both.wait()
        ran.add((threading.current_thread().name, torch.get_num_threads()))
        return rows

    in_batches([1] * (2 * LEAST_EACH), work, True)
    assert len(ran) == 2
    assert {threads for _, threads in ran} == {1}
    assert torch.get_num_threads() == 2
    new: list[int] = []
    thread = threading.Thread(target=lambda: new.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert new == [2]


def test_few_rows_are_done_by_all_threads_until_a_second_one_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_asking", set())
    ran: list[tuple[str, int, int]] = []

    def few() -> None:
        def work(rows: list[int]) -> list[int]:
            ran.append((threading.current_thread().name, torch.get_num_threads(), len(rows)))
            return rows

        assert in_batches([1, 2, 3], work, True) == [0, 1, 2]

    few()
    thread = threading.Thread(target=few)
    thread.start()
    thread.join()
    few()
    assert ran[0] == (threading.main_thread().name, 2, 3)
    assert sorted(n for _, _, n in ran[1:]) == [1, 1, 2, 2]
    for name, threads, _ in ran[1:]:
        assert name.startswith("nextmem-batch")
        assert threads == 1


def test_few_rows_are_one_batch_while_the_threads_work_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_asking", {1, 2})
    began, go_on = threading.Event(), threading.Event()

    def waits(rows: list[int]) -> list[int]:
        began.set()
        assert go_on.wait(30)
        return rows

    other = threading.Thread(target=lambda: in_batches([1], waits, True))
    other.start()
    assert began.wait(30)
    sizes: list[int] = []
    in_batches([1, 2, 3], lambda rows: sizes.append(len(rows)) or rows, True)
    go_on.set()
    other.join()
    assert sizes == [3]
    in_batches([1, 2, 3], lambda rows: sizes.append(len(rows)) or rows, True)
    assert sorted(sizes[1:]) == [1, 2]


def test_work_within_work_waits_for_no_thread() -> None:
    def work(rows: list[int]) -> list[int]:
        return in_batches([1] * (4 * LEAST_EACH), lambda inner: inner, True)[: len(rows)]

    assert len(in_batches([1] * (4 * LEAST_EACH), work, True)) == 4 * LEAST_EACH


def test_an_error_of_one_batch_is_raised() -> None:
    def work(rows: list[int]) -> list[int]:
        raise OSError(f"{len(rows)} rows")

    with pytest.raises(OSError, match=f"{LEAST_EACH} rows"):
        in_batches([1] * (2 * LEAST_EACH), work, True)


def test_a_text_has_the_same_latents_alone_and_among_many(codec: LatentCodec) -> None:
    texts = [f"Note {i}: the boat of Ann left on day {i * i}." for i in range(2 * LEAST_EACH)]
    together = codec.encode(texts)
    for i in (0, 7, 23):
        alone = codec.encode([texts[i]]).values[0]
        there = together.values[i, : len(alone)]
        assert float((alone - there).norm() / alone.norm()) < 1e-4


def test_parts_run_at_once_in_the_mode_of_the_thread_that_asks() -> None:
    both = threading.Barrier(2, timeout=30)

    def work(part: int) -> tuple[int, bool, bool, int]:
        both.wait()
        return part, torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.get_num_threads()

    with torch.inference_mode():
        here = torch.is_grad_enabled()
        assert at_once(work, [0, 1]) == [(0, True, here, 1), (1, True, here, 1)]
    with torch.no_grad():
        assert at_once(work, [0, 1]) == [(0, False, False, 1), (1, False, False, 1)]
    assert at_once(work, [0, 1]) == [(0, False, True, 1), (1, False, True, 1)]
    assert at_once(lambda part: at_once(lambda inner: part + inner, [1, 2]), [10, 20]) == [[11, 12], [21, 22]]


def test_where_no_thread_can_be_started_one_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_pools", {})
    start = threading.Thread.start
    refused = []

    def refusing(thread: threading.Thread) -> None:
        if thread.name.startswith("nextmem-batch") and len(refused) < 2:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refusing)
        for _ in range(4):  # the pool is made in the end
            assert in_batches([1] * 99, lambda rows: rows, side_by_side=True) == list(range(99))
            assert at_once(lambda n: 2 * n, [1, 2, 3]) == [2, 4, 6]
            assert torch.get_num_threads() == 2
    assert len(refused) == 2
    assert list(batches._pools) == [2]
    batches._pools[2].shutdown()


def test_what_the_work_raises_is_not_taken_for_a_thread_that_cannot_be_started() -> None:
    asked = []

    def failing(part: int) -> int:
        asked.append(part)
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError, match="can't start"):
        at_once(failing, [1, 2])
    assert len(asked) <= 2


def test_a_thread_that_outlives_the_main_one_goes_on() -> None:
    program = """
import threading, time, torch
torch.set_num_threads(2)
from nextmem_agents.codec.batches import at_once, in_batches

def later():
    threading.main_thread().join()
    print(in_batches([1] * 99, lambda rows: rows, side_by_side=True) == list(range(99)), at_once(abs, [1, -2]))

threading.Thread(target=later).start()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "True [1, 2]\n"
