"""Make an index from the records in a process that knows nothing else: ``python -m … database folder D codec``."""

from __future__ import annotations

import sys
from pathlib import Path

from nextmem_agents.errors import NextMemError
from nextmem_agents.store.chroma import ChromaIndex
from nextmem_agents.store.ledger import SELECT, by_collection, unpack
from nextmem_agents.store.sqlite import Database

BATCH = 1_000


def make(database: Path, folder: Path, dim: int, fingerprint: str) -> int:
    """Write every vector of the records into a new Chroma folder; returns how many."""
    records = Database.open(database, read_only=True)
    chroma = ChromaIndex(folder, dim, fingerprint)
    try:
        chroma.connect()
        with records.transaction() as sql:
            rows = sql.execute(f"{SELECT} ORDER BY v.scope, v.version, v.chunk")
            while batch := rows.fetchmany(BATCH):
                for collection, part in by_collection(batch):
                    ids, scopes, values = unpack(part, dim)
                    chroma.upsert(collection, ids, scopes, values)
        return chroma.count()
    finally:
        records.close()
        chroma.close()


def main() -> int:
    """Run with the arguments of the command line; an error is one line on standard error."""
    database, folder, dim, fingerprint = sys.argv[1:]
    try:
        make(Path(database), Path(folder), int(dim), fingerprint)
    except NextMemError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
