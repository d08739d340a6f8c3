"""``records.sqlite3``, the truth of an embedded store: how it is opened, laid out and kept safe."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from nextmem_agents.errors import DamagedStore, NewerFormat, StoreError
from nextmem_agents.store.halves import to_halves

APPLICATION_ID = 0x4E784D31  # "NxM1"
FORMAT = 3

# For ~1 KB payloads and 256-d vectors, bytes on disk over bytes of content: 1.20 at SQLite's usual 4 KB
# pages, 1.10 at 8 KB, 1.07 at 16 KB; 32 KB gains nothing more and doubles the time of a single write. 34 KB
# payloads fit 16 KB too.
PAGE_SIZE = 16_384
WAL_PAGES = 256  # 4 MB, what SQLite's default of 1,000 pages means at 4 KB

# Every table carries the scope and every key begins with it, so that no statement can do without; the foreign
# keys make sure that a chunk is of its memory's scope. `current` versions alone have vectors and postings: those
# of an old one lie together in `archive`, where only a question about the past looks. AUTOINCREMENT: a version,
# which is also the id in Chroma, never comes back. `erasures` lists the scopes whose bytes are still to be removed.
# A scope that has a collection of its own in the index says so by `own`.
_LIFE = """
CREATE INDEX memories_lengths ON memories (scope, version, length, valid_to, expires_at) WHERE current = 1;
CREATE INDEX memories_ending ON memories (scope, version) WHERE valid_to IS NOT NULL OR expires_at IS NOT NULL;
CREATE INDEX memories_expiring ON memories (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX memories_by_digest ON memories (scope, digest) WHERE current = 1 AND digest IS NOT NULL;
CREATE TABLE archive (
    scope INTEGER NOT NULL, version INTEGER NOT NULL,
    vectors BLOB NOT NULL, terms TEXT NOT NULL,
    PRIMARY KEY (scope, version),
    FOREIGN KEY (scope, version) REFERENCES memories (scope, version) ON DELETE CASCADE
);
CREATE TABLE accesses (
    scope INTEGER NOT NULL, version INTEGER NOT NULL,
    count INTEGER NOT NULL, last TEXT NOT NULL,
    PRIMARY KEY (scope, version),
    FOREIGN KEY (scope, version) REFERENCES memories (scope, version) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE TABLE erasures (scope INTEGER PRIMARY KEY);
"""

_INDEXING = """
CREATE INDEX vectors_pending ON vectors (scope, version, chunk) WHERE indexed = 0;
CREATE TABLE removals (
    collection INTEGER NOT NULL, version INTEGER NOT NULL, n_chunks INTEGER NOT NULL,
    PRIMARY KEY (collection, version)
) WITHOUT ROWID;
"""

SCHEMA = (
    """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE scopes (scope INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    own INTEGER NOT NULL DEFAULT 0 CHECK (own IN (0, 1)));
CREATE TABLE memories (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    scope INTEGER NOT NULL REFERENCES scopes (scope),
    id TEXT NOT NULL,
    current INTEGER NOT NULL CHECK (current IN (0, 1)),
    session TEXT,
    agent TEXT,
    role TEXT,
    occurred_at TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    metadata TEXT NOT NULL,
    n_chunks INTEGER NOT NULL CHECK (n_chunks > 0),
    length INTEGER NOT NULL,
    valid_from TEXT NOT NULL,
    valid_to TEXT,
    expires_at TEXT,
    importance REAL,
    written_by TEXT,
    derived_from TEXT,
    supersedes TEXT,
    digest TEXT,
    UNIQUE (scope, version)
);
CREATE UNIQUE INDEX memories_by_id ON memories (scope, id) WHERE current = 1;
CREATE INDEX memories_history ON memories (scope, id, version);
CREATE INDEX memories_by_session ON memories (scope, session, version) WHERE current = 1;
CREATE TABLE payloads (
    scope INTEGER NOT NULL, version INTEGER NOT NULL, chunk INTEGER NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (scope, version, chunk),
    FOREIGN KEY (scope, version) REFERENCES memories (scope, version) ON DELETE CASCADE
);
CREATE TABLE vectors (
    scope INTEGER NOT NULL, version INTEGER NOT NULL, chunk INTEGER NOT NULL,
    indexed INTEGER NOT NULL CHECK (indexed IN (0, 1)),
    vector BLOB NOT NULL,
    PRIMARY KEY (scope, version, chunk),
    FOREIGN KEY (scope, version) REFERENCES memories (scope, version) ON DELETE CASCADE
);
CREATE TABLE attributes (
    scope INTEGER NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, value NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (scope, key, kind, value, version),
    FOREIGN KEY (scope, version) REFERENCES memories (scope, version) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX attributes_by_version ON attributes (scope, version);
CREATE TABLE postings (
    scope INTEGER NOT NULL, term TEXT NOT NULL, version INTEGER NOT NULL,
    frequency INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (scope, term, version),
    FOREIGN KEY (scope, version) REFERENCES memories (scope, version) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX postings_by_version ON postings (scope, version);
"""
    + _LIFE
    + _INDEXING
)

# Format 1 had no end to a memory's validity but its replacement. Old versions had lost their vectors and terms: a
# question about the past finds them in lists, not by search.
_COLUMNS = """
DROP INDEX memories_lengths;
ALTER TABLE memories ADD COLUMN valid_from TEXT NOT NULL DEFAULT '';
ALTER TABLE memories ADD COLUMN valid_to TEXT;
ALTER TABLE memories ADD COLUMN expires_at TEXT;
ALTER TABLE memories ADD COLUMN importance REAL;
ALTER TABLE memories ADD COLUMN written_by TEXT;
ALTER TABLE memories ADD COLUMN derived_from TEXT;
ALTER TABLE memories ADD COLUMN supersedes TEXT;
ALTER TABLE memories ADD COLUMN digest TEXT;
UPDATE memories SET valid_from = updated_at, valid_to = (
    SELECT MIN(n.updated_at) FROM memories AS n
    WHERE n.scope = memories.scope AND n.id = memories.id AND n.version > memories.version
);
"""
# Format 2 kept vectors in single precision and all of Chroma in one collection.
_HALVES = "\n".join(
    [
        "ALTER TABLE scopes ADD COLUMN own INTEGER NOT NULL DEFAULT 0 CHECK (own IN (0, 1));",
        "ALTER TABLE removals RENAME TO old_removals;",
        "DROP INDEX vectors_pending;",
        _INDEXING,
        "INSERT INTO removals (collection, version, n_chunks) SELECT 0, version, n_chunks FROM old_removals;",
        "DROP TABLE old_removals;",
        "UPDATE vectors SET vector = halves(vector);",
        "UPDATE archive SET vectors = halves(vectors);",
    ]
)


class Database:
    """One connection, used by one thread at a time, with every statement inside :meth:`transaction`."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path | None, read_only: bool = False) -> Database:
        """Open the database file, creating it unless ``read_only``; a None path is a database in memory.

        Raises:
            NewerFormat: the file was written by a newer version; it was not touched.
            StoreError: it is damaged, of another program, unreadable, or, read-only, not there.
        """
        name = str(path) if path else ":memory:"
        exists = path is not None and inspect(path)
        if read_only and not exists:
            raise StoreError(f"there is no store to read at {name}")
        connection = None
        try:
            connection = _connect(path, read_only)
            if read_only:
                connection.execute("PRAGMA query_only = ON")
                _refuse_old(connection, name)
            else:
                _configure(connection)
                if not exists:
                    _create(connection)
                elif _format(connection) < FORMAT:
                    _upgrade(connection)
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise _failure(f"{name} cannot be opened: {error}", error) from error
        return cls(connection, path)

    @contextmanager
    def transaction(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        """Run statements on one state of the data; a write is kept whole on leaving, or not at all on an
        error.

        Raises:
            StoreError: SQLite failed (disk full, damaged file, …).
        """
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            action = "write; nothing of it was kept" if write else "read"
            raise _failure(f"{self.path or ':memory:'} failed to {action}: {error}", error) from error

    def foreign_changes(self) -> int:
        """A number that changes when another connection has written."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def size(self) -> int:
        """Bytes of the file and its write-ahead log, or of the pages in memory."""
        if self.path is None:
            pages, page = (
                self._connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("page_count", "page_size")
            )
            return int(pages * page)
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def rewrite(self) -> None:
        """Write the whole file anew, without what was deleted, and empty the write-ahead log.

        Raises:
            StoreError: the disk is full, or another process reads an older state just now.
        """
        try:
            self._connection.execute("VACUUM")
            self.empty_log()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path or ':memory:'} cannot be written anew: {error}") from error

    def empty_log(self) -> None:
        """Carry the write-ahead log over into the file and truncate it.

        Raises:
            StoreError: another process reads an older state just now.
        """
        if self.path is None:
            return
        try:
            busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise StoreError(f"the log of {self.path} cannot be emptied: {error}") from error
        if busy:
            raise StoreError(
                f"the log of {self.path} cannot be emptied while another process reads; close the readers and "
                "call this again, or reopen the store"
            )

    def complaints(self) -> list[str]:
        """What SQLite's own check finds wrong with the file; nothing, if it is sound.

        Raises:
            StoreError: the file is so damaged that it cannot be checked.
        """
        try:
            rows = self._connection.execute("PRAGMA integrity_check").fetchall()
            strays = self._connection.execute("PRAGMA foreign_key_check").fetchall()
        except sqlite3.Error as error:
            raise DamagedStore(f"{self.path or ':memory:'} is damaged: {error}") from error
        found = [] if rows == [("ok",)] else [str(row[0]) for row in rows]
        return found + [f"a row of {table} has lost its memory" for table, *_ in strays]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def inspect(path: Path) -> bool:
    """Whether ``path`` is a store of this program; it is looked at read-only, so a refusal leaves it
    untouched.

    Returns:
        False when there is no file, or an empty one as a crash during the very first opening leaves it.

    Raises:
        NewerFormat: the file was written by a newer version.
        StoreError: it is damaged, of another program, or cannot be read.
    """
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return False
    try:
        with closing(_connect(path, read_only=True)) as connection:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            written = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.Error as error:
        message = f"{path} is damaged or cannot be read, and was left as it is: {error}"
        raise _failure(message, error) from error
    if application != APPLICATION_ID and tables:
        raise StoreError(f"{path} is a database of another program; choose another folder")
    if written > FORMAT:
        raise NewerFormat(
            f"{path} has format {written} and this version reads up to {FORMAT}; upgrade nextmem-agents. "
            "The file was left untouched"
        )
    return bool(tables)


def _failure(message: str, error: sqlite3.Error) -> StoreError:
    # SQLite's codes for a malformed file, and only those, arrive as this very class.
    return DamagedStore(message) if type(error) is sqlite3.DatabaseError else StoreError(message)


def _connect(path: Path | None, read_only: bool) -> sqlite3.Connection:
    options = "mode=memory"
    if path is not None:
        options = "mode=ro" if read_only else "mode=rwc"
        # Even to read, WAL wants its shared-memory file; where none can be made nobody can be writing either.
        if (
            read_only
            and not os.access(path.parent, os.W_OK)
            and not path.with_name(path.name + "-wal").exists()
        ):
            options += "&immutable=1"
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}" if path else f"file::memory:?{options}",
        uri=True,
        timeout=30.0,
        isolation_level=None,  # transactions are begun by hand
        check_same_thread=False,  # the store's own lock keeps threads apart
    )


def _configure(connection: sqlite3.Connection) -> None:
    for pragma in (
        f"page_size = {PAGE_SIZE}",  # has effect on a new file only
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "secure_delete = ON",
        f"wal_autocheckpoint = {WAL_PAGES}",
        f"journal_size_limit = {WAL_PAGES * PAGE_SIZE}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _create(connection: sqlite3.Connection) -> None:
    _run(connection, f"{SCHEMA} PRAGMA application_id = {APPLICATION_ID};")


def _upgrade(connection: sqlite3.Connection) -> None:
    row = connection.execute("SELECT value FROM settings WHERE key = 'dim'").fetchone()
    dim = int(row[0]) if row else 1  # without it, nothing was written yet

    def halves(stored: bytes) -> bytes:
        return to_halves(np.frombuffer(stored, dtype="<f4").reshape(-1, dim)).tobytes()

    connection.create_function("halves", 1, halves, deterministic=True)
    _run(connection, (_COLUMNS + _LIFE if _format(connection) < 2 else "") + _HALVES)


def _run(connection: sqlite3.Connection, statements: str) -> None:
    # One transaction: a crash leaves either the file as it was or a whole schema.
    connection.executescript(f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {FORMAT}; COMMIT;")


def _format(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _refuse_old(connection: sqlite3.Connection, name: str) -> None:
    if _format(connection) < FORMAT:
        raise StoreError(
            f"{name} is of format {_format(connection)}; open it for writing once, to upgrade it"
        )
