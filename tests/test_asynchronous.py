from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nextmem_agents import NextMem
from nextmem_agents.asynchronous import async_iterator_twin, async_twin
from nextmem_agents.codec.worker import Caller, current_caller

USERS = 32


class Sleeper:
    name = "sleeper"

    def sleep(self, seconds: float) -> str:
        time.sleep(seconds)
        return threading.current_thread().name

    def who(self) -> Caller | None:
        return current_caller()

    def count(self, n: int):  # type: ignore[no-untyped-def]
        yield from range(n)

    asleep = async_twin(sleep)
    awho = async_twin(who)
    acount = async_iterator_twin(count)


async def test_calls_run_beside_one_another_and_the_loop_goes_on() -> None:
    sleeper, started = Sleeper(), time.monotonic()
    threads = await asyncio.gather(*(sleeper.asleep(0.2) for _ in range(USERS)))
    assert len(set(threads)) == USERS
    assert time.monotonic() - started < 0.2 * USERS / 2


async def test_the_codec_knows_on_whose_behalf_it_works() -> None:
    caller = await Sleeper().awho()
    assert caller is not None
    assert caller.name == "sleeper"
    assert current_caller() is None


async def test_an_iterator_gives_the_same_items() -> None:
    assert [item async for item in Sleeper().acount(4)] == [0, 1, 2, 3]


async def test_many_users_get_their_own_memories_and_one_who_leaves_disturbs_none(memory: NextMem) -> None:
    async def user(i: int) -> str:
        scope = memory.scope(f"user {i}")
        await scope.aremember(f"User {i} keeps the spare key under flower pot {i}.")
        hits = await scope.arecall("Where is the spare key?", k=1)
        return hits[0].text

    tasks = [asyncio.create_task(user(i)) for i in range(12)]
    await asyncio.sleep(0.02)
    tasks[3].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[3], asyncio.CancelledError)
    del found[3]
    assert found == [f"User {i} keeps the spare key under flower pot {i}." for i in range(12) if i != 3]


async def test_a_failed_call_disturbs_no_other(memory: NextMem) -> None:
    scope = memory.scope("a")
    good, bad = await asyncio.gather(
        scope.aremember("A good one."), scope.aremember("\ud800"), return_exceptions=True
    )
    assert isinstance(bad, Exception)
    assert isinstance(good, str)
    assert (await scope.aget(good)).text == "A good one."


async def test_what_is_asked_together_is_encoded_together(
    memory: NextMem, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, sizes = memory.codec, []
    plain = codec._encode_rows

    def noting(ids: list[list[int]]) -> object:
        sizes.append(len(ids))
        time.sleep(0.05)
        return plain(ids)

    monkeypatch.setattr(codec, "_encode_rows", noting)
    scope = memory.scope("a")
    scope.remember("The bridge opened in May.")
    await asyncio.gather(*(scope.arecall(f"When did bridge {i} open?", ranking="latent") for i in range(12)))
    assert len(sizes) < 12
    assert sum(sizes) >= 12


_FORKED = """
import asyncio, os, signal, sys
from nextmem_agents import NextMem

async def remember():
    with NextMem.open(sys.argv[1]) as memory:
        await memory.scope("ann").aremember("The spare key is under the blue pot.")

asyncio.run(remember())
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
signal.alarm(60)
with NextMem.open(sys.argv[1], read_only=True) as memory:
    hits = asyncio.run(memory.scope("ann").arecall("Where is the spare key?"))
    print(hits[0].text, flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_async_calls_work_in_a_forked_child(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKED, str(tmp_path / "memory")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout == "The spare key is under the blue pot.\n", done.stderr
