"""A number of its own for every writing process, and with it versions that no other process gives out."""

from __future__ import annotations

import logging
import random
import time
import uuid

from nextmem_agents.errors import StoreError
from nextmem_agents.store.server_connection import Collection, Row
from nextmem_agents.store.server_rows import WRITER

logger = logging.getLogger(__name__)

SLOT_BITS = 12
SLOTS = 2**SLOT_BITS
START = 1_735_689_600_000_000  # 2025-01-01; versions are 63 bits: 51 of microseconds, to 2096, and 12 of slot

RENEW = 6 * 3600.0
EXPIRE = 24 * 3600.0
"""A slot whose process has not renewed it for so many seconds is free. Clocks of machines may differ by hours."""

ATTEMPTS = 50


class Writer:
    """The slot that this process holds, taken at the first write; used under the lock of its writes.

    Two processes that want the same slot are told apart by the server: of two ``add`` of one id the first counts
    and the second changes nothing.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._token = uuid.uuid4().hex
        self._slot: int | None = None
        self._renewed = 0.0
        self._last = 0

    def slot(self) -> int:
        """This process's slot, claimed or renewed if it is time."""
        idle = time.monotonic() - self._renewed
        if self._slot is not None and idle > (RENEW + EXPIRE) / 2:
            self._slot = None  # somebody else may have it by now
        if self._slot is None:
            self._slot = self._claim()
        elif idle > RENEW:
            self._collection.upsert([self._row(self._slot)])
        else:
            return self._slot
        self._renewed = time.monotonic()
        return self._slot

    def version(self, after: int) -> int:
        """A version above ``after`` and above all that this process gave out.

        The time, so that versions of all processes follow the order of writing as well as their clocks agree;
        a clock that was set back only makes them count on from the last one.
        """
        assert self._slot is not None  # noqa: S101 -- slot() was called
        now = time.time_ns() // 1_000 - START
        self._last = max(now, self._last + 1, (after >> SLOT_BITS) + 1)
        return (self._last << SLOT_BITS) | self._slot

    def abandon(self) -> None:
        """Never use this slot again: a write under it has failed, and may yet arrive."""
        self._slot = None
        self._token = uuid.uuid4().hex

    def release(self) -> None:
        """Give the slot free; one that cannot be is free after a day."""
        slot, self._slot = self._slot, None
        if slot is None:
            return
        try:
            self._collection.delete([_id(slot)], where={"token": self._token})
        except StoreError as error:
            logger.info("writer slot %d stays taken for a day: %s", slot, error)

    def _claim(self) -> int:
        for _ in range(ATTEMPTS):
            rows = {row.id: row for row in self._collection.rows({"kind": WRITER})}
            now = time.time()
            for id_, row in list(rows.items()):
                renewed = row.metadata.get("renewed", 0)
                if not isinstance(renewed, int | float) or now - renewed > EXPIRE:
                    # By its token: if another process has just taken it over, this deletes nothing.
                    self._collection.delete([id_], where={"token": row.metadata.get("token", "")})
                    del rows[id_]
            free = [slot for slot in range(min(SLOTS, 8 + 2 * len(rows))) if _id(slot) not in rows]
            if not free:
                break
            slot = random.choice(free)  # noqa: S311 -- so that processes that start together seldom collide
            self._collection.add(self._row(slot))
            taken = self._collection.get([_id(slot)]).get(_id(slot))
            if taken is not None and taken.metadata.get("token") == self._token:
                return slot
        raise StoreError(
            f"no writer slot could be had in {ATTEMPTS} attempts; are {SLOTS} processes writing to this collection?"
        )

    def _row(self, slot: int) -> Row:
        return Row(
            _id(slot),
            {"kind": WRITER, "slot": slot, "token": self._token, "renewed": int(time.time())},
        )


def _id(slot: int) -> str:
    return f"writer.{slot}"
