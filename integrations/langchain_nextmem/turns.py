"""A turn of a conversation into a scope, when the agent or chain has done its work."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from hashlib import blake2b

from nextmem_agents.errors import MemoryRefused
from nextmem_agents.scope import Scope

_log = logging.getLogger(__name__)


def remember_turn(
    scope: Scope, turn: Mapping[str, str], session: str | None, ids: Mapping[str, str] | None = None
) -> None:
    """Remember a turn, in one transaction, but for what is blank or what ``on_remember`` refuses.

    Work that is done and paid for must not fail over a refusal, which is a policy: it is a warning of the logger
    ``langchain_nextmem.turns``, without what was said.

    Args:
        scope: whose memories.
        turn: roles to what each said.
        session: the conversation.
        ids: roles to the memories' ids, so that the same turn again replaces; by default each is new.

    Raises:
        StoreError: the turn cannot be written; nothing of it was.
    """
    said = {role: well_formed(text) for role, text in turn.items() if text.strip()}
    roles = list(said)
    try:
        scope.remember(
            list(said.values()),
            id=None if ids is None else [ids[role] for role in roles],
            role=roles,
            session=session,
            occurred_at=datetime.now(timezone.utc),
        )
    except MemoryRefused:
        if len(said) == 1:
            _log.warning("what the %s said was not remembered: on_remember refused it", roles[0])
            return
        for role in roles:
            remember_turn(scope, {role: said[role]}, session, ids)


def turn_ids(thread: str | None, message: str | None, earlier: int) -> dict[str, str] | None:
    """The ids of the two memories of a turn, by role; None without a thread and a message to tell it by.

    Args:
        thread: its id.
        message: the id of the message that the user asked with.
        earlier: how many answers to it the thread has already.
    """
    if thread is None or message is None:
        return None
    keys = {"user": [thread, message], "assistant": [thread, message, earlier]}
    return {role: blake2b(json.dumps(key).encode(), digest_size=16).hexdigest() for role, key in keys.items()}


def well_formed(text: str) -> str:
    """A text that can be kept: halves of a surrogate pair are joined, and lone ones become U+FFFD.

    Examples:
        >>> well_formed("a\\ud83d\\ude00 b\\ud83d")
        'a😀 b�'
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
