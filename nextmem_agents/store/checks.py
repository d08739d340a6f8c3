"""The door of the store: scope ids, memory ids, metadata, times and records are checked here, once."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.store.records import NewRecord, Scalar

WORD_FIELDS = frozenset({"session", "agent", "role", "id", "written_by", "derived_from", "supersedes"})
TIME_FIELDS = frozenset({"occurred_at", "created_at", "updated_at", "valid_from", "valid_to", "expires_at"})
NUMBER_FIELDS = frozenset({"importance"})
RESERVED_FIELDS = WORD_FIELDS | TIME_FIELDS | NUMBER_FIELDS
"""Fields of every record; metadata cannot use their names."""

MAX_NAME_LENGTH = 256


def check_scope(scope: object) -> str:
    """Return the scope id, or raise ``InvalidArgument`` with the reason.

    A scope id is 1 to 256 characters in Unicode NFC, without control characters, lone surrogates, or white
    space at its ends. Another normal form is refused, never folded: two users must not become one by looking
    alike. What looks like another name and is not the same is another scope.
    """
    if not isinstance(scope, str):
        raise InvalidArgument(
            f"a scope is a string such as 'alice', not {type(scope).__name__}: {scope!r:.80}"
        )
    _check_text("a scope", scope)
    if not scope:
        raise InvalidArgument("a scope must not be empty; use 'default' if there is only one")
    if len(scope) > MAX_NAME_LENGTH:
        raise InvalidArgument(f"a scope has at most {MAX_NAME_LENGTH} characters, this one {len(scope)}")
    if any(unicodedata.category(character) == "Cc" for character in scope):
        raise InvalidArgument(f"a scope must not contain control characters: {scope!r}")
    if scope != scope.strip():
        raise InvalidArgument(f"a scope must not begin or end with white space: {scope!r}; strip it first")
    if not unicodedata.is_normalized("NFC", scope):
        raise InvalidArgument(
            f"the scope {scope!r} is not in Unicode NFC; always pass unicodedata.normalize('NFC', scope)"
        )
    return _plain(scope)


def check_id(id: object) -> str:  # noqa: A002 -- the field's own name
    """Return the memory id (1 to 256 characters, no lone surrogates), or raise ``InvalidArgument``."""
    if not isinstance(id, str):
        raise InvalidArgument(f"a memory id is a string, not {type(id).__name__}: {id!r:.80}")
    _check_text("a memory id", id)
    if not 1 <= len(id) <= MAX_NAME_LENGTH:
        raise InvalidArgument(f"a memory id has 1 to {MAX_NAME_LENGTH} characters, this one has {len(id)}")
    return _plain(id)


def check_ids(ids: object) -> list[str]:
    """Return the ids as a list; a lone string is refused, since it would be read letter by letter."""
    return [check_id(id_) for id_ in _check_sequence("ids", ids)]


def check_terms(terms: object) -> list[str]:
    """Return the terms of a query, each once and in order."""
    return list(dict.fromkeys(_check_word("a term", term) for term in _check_sequence("terms", terms)))


def check_versions(versions: object) -> list[int]:
    """Return the versions as a list of plain integers."""
    if isinstance(versions, np.ndarray):
        versions = versions.tolist()
    listed = _check_sequence("versions", versions)
    if not all(isinstance(version, int | np.integer) for version in listed):
        raise InvalidArgument("versions must be integers")
    return [int(version) for version in listed]


def check_count(name: str, value: object, bits: int = 63) -> int:
    """Return a number that must be an integer of at least 1, and below 2 ** ``bits``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value < 2**bits:
        raise InvalidArgument(
            f"{name} must be an integer of at least 1 (and below 2**{bits}), not {value!r:.80}"
        )
    return int(value)


def check_scalar(name: str, value: object) -> Scalar:
    """Return a metadata value as a plain string, integer (64 bit), finite float or boolean."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        _check_text(name, value)
        return _plain(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidArgument(f"{name} is an integer beyond 64 bits; keep it as a string")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidArgument(f"{name} is {value}; only finite numbers can be kept and compared")
        return float(value)
    hint = "leave the key out" if value is None else "use a string, an integer, a float or a boolean"
    if isinstance(value, datetime):
        hint = "keep it as a string, value.isoformat()"
    raise InvalidArgument(f"{name} is of type {type(value).__name__}; {hint}")


def check_metadata(metadata: object) -> dict[str, Scalar]:
    """Return a copy of the metadata in plain types, or raise ``InvalidArgument`` naming the key at fault."""
    if not isinstance(metadata, Mapping):
        raise InvalidArgument(f"metadata is a dictionary, not {type(metadata).__name__}")
    return {check_key(key): check_scalar(f"metadata {key!r:.80}", value) for key, value in metadata.items()}


def check_key(key: object) -> str:
    """Return a metadata key: 1 to 256 characters, not reserved, not beginning with ``$``."""
    if not isinstance(key, str):
        raise InvalidArgument(f"a metadata key is a string, not {type(key).__name__}: {key!r:.80}")
    _check_text("a metadata key", key)
    if not 1 <= len(key) <= MAX_NAME_LENGTH:
        raise InvalidArgument(f"a metadata key has 1 to {MAX_NAME_LENGTH} characters: {key!r:.80}")
    if key in RESERVED_FIELDS:
        raise InvalidArgument(f"{key!r} is a field of every memory; pass it as {key}=, not as metadata")
    if key.startswith("$"):
        raise InvalidArgument(f"a metadata key must not begin with '$', which marks operators: {key!r:.80}")
    return _plain(key)


def check_vector(name: str, vector: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return finite float32 values of the given shape."""
    try:
        values = np.asarray(vector)
        if values.dtype.kind not in "fiu":
            raise TypeError(f"it holds {values.dtype}")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{name} must be an array of floats: {error}") from error
    if values.shape != shape:
        raise InvalidArgument(f"{name} must have the shape {list(shape)}, not {list(values.shape)}")
    if not np.isfinite(values).all():
        raise InvalidArgument(f"{name} contains values that are not finite in float32")
    return values


def check_record(record: object, dim: int) -> NewRecord:
    """Return the record in plain types, its vectors ``[n_chunks, dim]`` float32; or ``InvalidArgument``."""
    if not isinstance(record, NewRecord):
        raise InvalidArgument(f"put takes NewRecord objects, not {type(record).__name__}")
    id_ = check_id(record.id)
    payloads = [
        bytes(payload) for payload in _check_sequence("payloads", record.payloads) if _is_bytes(payload)
    ]
    if not payloads or len(payloads) != len(record.payloads):
        raise InvalidArgument(f"memory {id_!r}: payloads must be one or more byte strings")
    if not isinstance(record.terms, Mapping):
        raise InvalidArgument(f"memory {id_!r}: terms is a dictionary of counts")
    times = {
        name: None if value is None else check_time(name, value)
        for name in ("occurred_at", "expires_at", "valid_from", "valid_to", "created_at", "updated_at")
        for value in (getattr(record, name),)
    }
    begins, ends = times["valid_from"], times["valid_to"]
    if begins and ends and ends <= begins and times["updated_at"] is None:
        raise InvalidArgument(f"memory {id_!r}: valid_to must be later than valid_from")
    if not isinstance(record.fold, bool):
        raise InvalidArgument(f"memory {id_!r}: fold is a boolean, not {record.fold!r:.80}")
    return NewRecord(
        id=id_,
        payloads=payloads,
        vectors=check_vector(f"vectors of memory {id_!r}", record.vectors, (len(payloads), dim)),
        terms={
            _check_word("a term", t): check_count(f"the count of {t!r:.80}", n, bits=31)
            for t, n in record.terms.items()
        },
        session=check_optional("session", record.session),
        agent=check_optional("agent", record.agent),
        role=check_optional("role", record.role),
        metadata=check_metadata(record.metadata),
        importance=check_importance(record.importance),
        written_by=check_optional("written_by", record.written_by),
        derived_from=check_optional("derived_from", record.derived_from),
        supersedes=None if record.supersedes is None else check_id(record.supersedes),
        digest=check_optional("digest", record.digest),
        fold=record.fold,
        former=record.former,
        **times,
    )


def check_importance(value: object) -> float | None:
    """Return an importance, a number from 0 to 1, or None; ``InvalidArgument`` for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidArgument(f"importance is a number from 0 to 1, not {value!r:.80}")
    return float(value)


def check_time(name: str, value: object) -> datetime:
    """Return an aware UTC datetime from a datetime or an ISO 8601 string; a naive one is taken as UTC."""
    if isinstance(value, str):
        try:
            # Python 3.10 does not read the "Z" that most other software writes.
            value = datetime.fromisoformat(value[:-1] + "+00:00" if value.endswith(("Z", "z")) else value)
        except ValueError as error:
            raise InvalidArgument(
                f"{name}: {value!r:.80} is no ISO 8601 time such as '2024-05-01T10:00:00+00:00'"
            ) from error
    if not isinstance(value, datetime):
        raise InvalidArgument(f"{name} must be a datetime or an ISO 8601 string, not {type(value).__name__}")
    if value.tzinfo is None:
        return value.replace(tzinfo=timezone.utc)
    try:
        return value.astimezone(timezone.utc)
    except OverflowError as error:
        raise InvalidArgument(f"{name}: {value!r} lies outside the years 1 to 9999 in UTC") from error


def check_expiries(times: Mapping[int, object]) -> dict[int, datetime]:
    """Return when each version expires; ``InvalidArgument`` for what is no version or no time."""
    return {v: check_time("expires_at", times[v]) for v in check_versions(list(times))}


def time_to_text(value: datetime) -> str:
    """Write an aware UTC datetime so that texts sort as times do: always microseconds, always ``+00:00``."""
    return value.isoformat(timespec="microseconds")


def metadata_to_text(metadata: Mapping[str, Scalar]) -> str:
    """Write checked metadata as JSON."""
    return json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"{name} contains a lone surrogate and cannot be stored: {text!r:.80}"
        ) from error


def _check_word(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{name} must be a non-empty string, not {value!r:.80}")
    _check_text(name, value)
    return _plain(value)


def check_optional(name: str, value: object) -> str | None:
    """Return a word such as a session or a role, or None; ``InvalidArgument`` for what is empty or no text."""
    return None if value is None else _check_word(name, value)


def _check_sequence(name: str, values: object) -> Sequence[Any]:
    if isinstance(values, str | bytes | bytearray | Mapping) or not isinstance(values, Sequence):
        raise InvalidArgument(f"{name} must be a list, not {type(values).__name__}")
    return values


def _is_bytes(payload: object) -> bool:
    return isinstance(payload, bytes | bytearray | memoryview)


def _plain(text: str) -> str:
    # A subclass (a string enum, say) is stored as the string it is.
    return str.__str__(text)
