"""A store against a plain model of it: random writes, updates, expiry, erasure, reopening, over three scopes.

``NEXTMEM_STEPS`` is how many steps are taken in all; 400 by default, 10,000 for the full run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from nextmem_agents.errors import MemoryNotFound
from nextmem_agents.store import EmbeddedStore, clock
from nextmem_agents.store.exact import unit
from tests.store.conftest import DIM, record_of, vector_of

STEPS = int(os.environ.get("NEXTMEM_STEPS", "400"))
STEPS_OF_ONE = 50
START = datetime(2024, 1, 1, tzinfo=timezone.utc)

scopes = st.sampled_from(["a", "b", "A"])
ids = st.sampled_from([f"m{i}" for i in range(6)])
words = st.sampled_from([f"{w} {n}" for w in ("red", "blue. Green", "old") for n in range(4)])
sessions = st.sampled_from([None, "s", "t"])
lives = st.sampled_from([None, 1, 3, 50])


@dataclass
class Version:
    text: str
    session: str | None
    begins: datetime
    ends: datetime | None = None


@dataclass
class Kept:
    versions: list[Version]
    order: int
    expires: datetime | None = None
    created: datetime = field(default=START)


class Life(RuleBasedStateMachine):
    """The rules; ``model`` is scope -> id -> what is kept of it."""

    fresh_index = False

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp(prefix="nextmem-states-"))
        self.time = START
        self.writes = 0
        self.model: dict[str, dict[str, Kept]] = {"a": {}, "b": {}, "A": {}}
        machine = self

        class Clock(datetime):
            @classmethod
            def now(cls, tz=None):
                return machine.time

        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(clock, "datetime", Clock)
        self.patch.setattr(clock, "_latest", START)
        self.store = self.open()

    def open(self):
        # An index for every scope, however small, so that it is used.
        return EmbeddedStore.open(self.folder, dim=DIM, fingerprint="f1", codec_name="fake", exact_limit=3)

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            self.patch.undo()
            shutil.rmtree(self.folder)

    def alive(self, scope):
        return {
            id_: kept
            for id_, kept in self.model[scope].items()
            if kept.expires is None or kept.expires > self.time
        }

    def sweep(self):
        for scope in self.model:
            self.model[scope] = self.alive(scope)

    @rule(scope=scopes, id_=ids, text=words, session=sessions, life=lives)
    def remember(self, scope, id_, text, session, life):
        self.time += timedelta(seconds=1)
        self.sweep()
        expires = None if life is None else self.time + timedelta(seconds=life)
        self.store.put(scope, [record_of(text, id_, session=session, expires_at=expires)])
        self.write(scope, id_, text, session, expires)

    def write(self, scope, id_, text, session, expires):
        self.writes += 1
        kept = self.model[scope].setdefault(id_, Kept([], 0, None, self.time))
        if kept.versions:
            kept.versions[-1].ends = min(kept.versions[-1].ends or self.time, self.time)
        kept.versions.append(Version(text, session, self.time))
        kept.order, kept.expires = self.writes, expires

    @rule(scope=scopes, old=ids, new=ids, text=words)
    def supersede(self, scope, old, new, text):
        self.time += timedelta(seconds=1)
        if old == new:
            return
        if old not in self.alive(scope):
            # A write that is refused sweeps nothing away.
            with pytest.raises(MemoryNotFound):
                self.store.put(scope, [record_of(text, new, supersedes=old)])
            return
        self.store.put(scope, [record_of(text, new, supersedes=old)])
        self.sweep()
        last = self.model[scope][old].versions[-1]
        last.ends = min(last.ends or self.time, self.time)
        self.write(scope, new, text, None, None)

    @rule(scope=scopes, id_=ids)
    def forget(self, scope, id_):
        if id_ in self.alive(scope):
            self.sweep()
            assert self.store.forget(scope, ids=[id_]) == 1
            del self.model[scope][id_]
        else:
            with pytest.raises(MemoryNotFound):
                self.store.forget(scope, ids=[id_])

    @rule(scope=scopes, session=st.sampled_from(["s", "t"]))
    def forget_session(self, scope, session):
        self.sweep()
        gone = [id_ for id_, kept in self.model[scope].items() if kept.versions[-1].session == session]
        assert self.store.forget(scope, where={"session": session}) == len(gone)
        for id_ in gone:
            del self.model[scope][id_]

    @rule(seconds=st.integers(1, 5))
    def wait(self, seconds):
        self.time += timedelta(seconds=seconds)

    @rule()
    def purge(self):
        expired = sum(len(kept) for kept in self.model.values())
        self.sweep()
        assert self.store.purge() == expired - sum(len(kept) for kept in self.model.values())

    @rule(scope=scopes)
    def erase(self, scope):
        known = len(self.alive(scope))
        # The process that makes the index costs a second a time: it has its own tests, and here every 20th use.
        self.writes += 1
        with pytest.MonkeyPatch.context() as patch:
            if self.writes % 20:
                patch.setattr(
                    "nextmem_agents.store.indexing.Indexer.make_elsewhere", lambda indexer: indexer.rebuild()
                )
            assert self.store.erase(scope).memories == known
        self.model[scope] = {}

    @rule()
    def reopen(self):
        self.sweep()  # as every opening for writing does
        self.store.close()
        self.store = self.open()

    @rule()
    def rebuild(self):
        self.store.rebuild()

    @invariant()
    def reads_agree(self):
        if not hasattr(self, "store"):
            return
        assert self.store.scopes() == sorted(scope for scope in self.model if self.alive(scope))
        for scope in self.model:
            held = self.held(scope, None)
            self.compare(scope, None, held)
            self.compare(
                scope, self.time - timedelta(seconds=4), self.held(scope, self.time - timedelta(seconds=4))
            )
            assert self.store.count(scope) == len(held)
            for id_, kept in self.alive(scope).items():
                versions = self.store.history(scope, id_)
                assert self.texts(scope, versions) == [version.text for version in kept.versions]
                assert [v.valid_to for v in versions] == [version.ends for version in kept.versions]

    def held(self, scope, as_of):
        found = []
        for id_, kept in self.alive(scope).items():
            for n, version in enumerate(kept.versions):
                if as_of is None:
                    holds = n == len(kept.versions) - 1 and (version.ends is None or version.ends > self.time)
                else:
                    holds = version.begins <= as_of and (version.ends is None or version.ends > as_of)
                if holds:
                    found.append((id_, version.text))
        return sorted(found)

    def compare(self, scope, as_of, held):
        listed = [*self.store.list(scope, as_of=as_of)]
        texts = self.texts(scope, listed)
        assert sorted(zip((r.id for r in listed), texts, strict=True)) == held
        for query in ("red 1", "Green 2"):
            found = self.store.nearest(scope, vector_of(query), 4, as_of=as_of)
            best = sorted((self.similarity(query, text) for _, text in held), reverse=True)[:4]
            assert [similarity for _, similarity in found] == pytest.approx(best, abs=2e-4)
            assert {version for version, _ in found} <= {record.version for record in listed}
        postings = self.store.postings(scope, ["red"], as_of=as_of)
        assert postings.n_memories == len(held)
        assert postings.terms["red"].document_frequency == sum("red" in text for _, text in held)

    @staticmethod
    def similarity(query, text):
        parts = unit(np.stack([vector_of(part) for part in text.split(". ")]))
        return float((parts @ unit(vector_of(query))).max())

    def texts(self, scope, records):
        stored = self.store.payloads(scope, [record.version for record in records])
        return [b". ".join(stored[record.version]).decode() for record in records]


@pytest.mark.timeout(7_200)
def test_the_store_does_what_a_plain_model_does():
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=max(1, STEPS // STEPS_OF_ONE),
            stateful_step_count=STEPS_OF_ONE,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
            phases=[Phase.generate, Phase.shrink],
        ),
    )
