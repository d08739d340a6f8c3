"""The store: memories as bytes, vectors and term counts, by scope; it knows nothing of models or text."""

from nextmem_agents.store.checks import check_metadata, check_scope
from nextmem_agents.store.embedded import EmbeddedStore
from nextmem_agents.store.records import NewRecord, Postings, Record, Store, TermPostings

__all__ = [
    "EmbeddedStore",
    "NewRecord",
    "Postings",
    "Record",
    "Store",
    "TermPostings",
    "check_metadata",
    "check_scope",
]
