"""Trust: by whom a memory was said, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.store.records import Record

SOURCE = "source"
"""The metadata field that names a memory's source, as LangChain's and LlamaIndex's loaders write it."""


@dataclass(frozen=True)
class Trust:
    """Which memories count as trusted: those of some roles, and those from some sources.

    A memory is trusted if its role is one of ``roles`` and it was not derived from anything (``derived_from``), or if
    one of its sources (``derived_from``, ``written_by``, the metadata's ``source``) is one of ``sources``. So neither a
    page of the web that a tool brought, nor an agent's summary of it, is trusted by default. A field that your
    application fills from untrusted input proves nothing: let a write hook set it.

    Attributes:
        roles: who is trusted.
        sources: what is trusted whoever said it.

    Examples:
        >>> Trust(sources=("handbook.pdf",)).roles
        ('user', 'assistant')
    """

    roles: tuple[str, ...] = ("user", "assistant")
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("roles", "sources"):
            given = getattr(self, name)
            if isinstance(given, str) or not all(isinstance(each, str) for each in given):
                raise InvalidArgument(f"{name} to trust are a sequence of strings, not {given!r:.80}")
            object.__setattr__(self, name, tuple(given))

    @classmethod
    def of(cls, trusted_only: bool | Trust) -> Trust | None:
        """What ``trusted_only`` asks for: the defaults for True, None for False.

        Raises:
            InvalidArgument: it is neither a bool nor a Trust.
        """
        if not isinstance(trusted_only, bool | Trust):
            raise InvalidArgument(f"trusted_only is True, False or a Trust, not {trusted_only!r:.80}")
        return trusted_only if isinstance(trusted_only, Trust) else cls() if trusted_only else None

    def admits(self, record: Record) -> bool:
        """Whether a memory is trusted."""
        sources = {record.derived_from, record.written_by, record.metadata.get(SOURCE)}
        if sources.intersection(self.sources):
            return True
        return record.role in self.roles and record.derived_from is None

    def narrowed(self, where: Any) -> Any:
        """A filter that leaves out most of what is not trusted, where that can be told from the role alone."""
        if self.sources or not self.roles or not isinstance(where, Mapping | None):
            return where
        found = dict(where or {})
        asked = found.get("role")
        if isinstance(asked, Mapping) and "$in" in asked:
            return where  # the two cannot be joined
        given = {} if asked is None else dict(asked) if isinstance(asked, Mapping) else {"$eq": asked}
        found["role"] = {**given, "$in": list(self.roles)}
        return found
