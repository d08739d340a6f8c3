"""Memories as LlamaIndex nodes, and the way back from a node to its memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from llama_index.core.schema import BaseNode, NodeWithScore, TextNode

from nextmem_agents.recall.hits import Memory
from nextmem_agents.scope import Scope

MEMORY_ID = "memory_id"
SCOPE = "scope"
_FOR_THE_MODEL = ("role", "occurred_at")


@dataclass(frozen=True)
class Quotation:
    """What a node says of its memory; a postprocessor may have changed it, so it is not read anew."""

    text: str
    role: str | None
    occurred_at: datetime | None

    @classmethod
    def of(cls, node: NodeWithScore) -> Quotation:
        """The quotation of a node that stands for a memory."""
        known = node.node.metadata
        when = known.get("occurred_at")
        return cls(node.node.get_content(), known.get("role"), datetime.fromisoformat(when) if when else None)


def as_node(memory: Memory, scope: Scope) -> TextNode:
    """A node with the memory's id and text; its metadata is plain JSON and holds no payload."""
    text = memory.text
    known = {
        MEMORY_ID: memory.id,
        SCOPE: scope.name,
        "role": memory.role,
        "session": memory.session,
        "occurred_at": memory.occurred_at.isoformat() if memory.occurred_at else None,
        "exact": memory.exact,
    }
    metadata = {**memory.metadata, **{key: value for key, value in known.items() if value is not None}}
    return TextNode(
        id_=memory.id,
        text=text,
        metadata=metadata,
        excluded_llm_metadata_keys=[key for key in metadata if key not in _FOR_THE_MODEL],
        excluded_embed_metadata_keys=list(metadata),
    )


def memory_id(node: BaseNode, scope: Scope) -> str | None:
    """The id of the memory of ``scope`` that a node stands for; None for any other node."""
    known = node.metadata.get(MEMORY_ID)
    return known if isinstance(known, str) and node.metadata.get(SCOPE) == scope.name else None
