"""Keys of encrypted scopes: one each, in a file beside the records, itself locked by the user's key or not.

``keys.json`` names a scope by a digest. A scope's key is 32 random bytes, kept as they are, or encrypted with
AES-256-GCM under the user's key. A passphrase becomes a key by scrypt (RFC 7914). Whoever has the folder and, where
there is one, the user's key, can read the scope; once a scope's key is erased, nobody can. Under ``erasing`` it has the
scopes whose erasure was begun: memories and key cannot go in one step.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from hashlib import blake2b, scrypt
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from filelock import FileLock, Timeout

from nextmem_agents.errors import InvalidArgument, KeyMissing, MissingExtra, NewerFormat, StoreError
from nextmem_agents.store.gate import Gate

FILE = "keys.json"
FORMAT = 1
KEY_BYTES = 32
NONCE_BYTES = 12
_SCRYPT = {"n": 2**15, "r": 8, "p": 1, "maxmem": 2**26, "dklen": KEY_BYTES}
MAGIC = b"NE\x01"
"""Begins an encrypted payload; a plain one begins with ``NM``."""

# All rings of a file share one within a process: a key that one erases, none may be sealing with. The process id is in
# the key since a forked child has none of its parent's threads.
_gates: WeakValueDictionary[tuple[int, str], Gate] = WeakValueDictionary()
_gates_guard = threading.Lock()


class KeyRing:
    """The keys of a store's encrypted scopes.

    Args:
        folder: where ``keys.json`` lies, or None for keys that end with the process.
        unlock: a passphrase, or 32 bytes, under which the keys lie encrypted; None keeps them plain.

    Raises:
        KeyMissing: the file needs a passphrase or key, or another one.
        MissingExtra: ``cryptography`` is not installed.
        NewerFormat: a newer version wrote the file.
        StoreError: the file is damaged.
    """

    def __init__(self, folder: Path | None, unlock: str | bytes | None = None) -> None:
        self._file = None if folder is None else folder / FILE
        self._guard = threading.RLock()
        self._gate = Gate() if self._file is None else _gate_of(self._file)
        self._unlocked_with = unlock
        self._keys: dict[str, bytes] = {}
        self.plain: set[str] = set()  # scopes that are known to hold memories that are not encrypted
        self._lock_key: bytes | None = None
        self._seen = self._state()
        if self._seen is not None:
            self._take(self._read())
        else:
            salt = "" if unlock is None else secrets.token_hex(16)
            self._take({"format": FORMAT, "salt": salt, "locked": unlock is not None, "keys": {}})

    def _take(self, content: dict[str, Any]) -> None:
        """Begin with a file's content; or with an empty one, until there is a file."""
        unlock = self._unlocked_with
        if content["locked"] and unlock is None:
            raise KeyMissing(f"{self._file} is locked; pass the passphrase or key as encryption_key=")
        if not content["locked"] and unlock is not None:
            raise KeyMissing(
                f"the keys in {self._file} are not locked; open the store without encryption_key"
            )
        self._content = content
        if unlock is not None:
            self._lock_key = _as_key(unlock, bytes.fromhex(content["salt"]))
        self._unlock_all()

    def get(self, scope: str) -> bytes | None:
        """The key of a scope, or None if it is not encrypted."""
        with self._guard:
            self._refresh()
            return self._keys.get(_digest(scope))

    @contextmanager
    def kept(self, scope: str) -> Iterator[bytes | None]:
        """The key of a scope, or None, which this process does not change meanwhile: what it seals can be written."""
        with self._gate.shared():
            yield self.get(scope)

    def changing(self) -> AbstractContextManager[None]:
        """While nothing is being sealed in this process, so that a key can be made or erased."""
        return self._gate.alone()

    def make(self, scope: str) -> bytes:
        """The key of a scope, made and written now if there is none."""
        name = _digest(scope)
        with self._alone():
            if name not in self._keys:
                key = secrets.token_bytes(KEY_BYTES)
                self._write(self._content["keys"] | {name: self._lock(name, key)})
                self._keys[name] = key
            return self._keys[name]

    def erase(self, scope: str) -> bool:
        """Delete the key of a scope, which makes what it encrypted unreadable; whether there was one."""
        name = _digest(scope)
        with self._alone():
            if name not in self._keys:
                return False
            self._erase({name})
            return True

    def begin_erasure(self, scope: str) -> None:
        """Note that a scope is being erased, so that its key goes too if the process ends before :meth:`erase`."""
        name = _digest(scope)
        with self._alone():
            if name in self._keys:
                self._write(self._content["keys"], erasing=[*self._erasing, name])

    def finish_erasures(self, scopes: Callable[[], Iterable[str]]) -> None:
        """Erase the keys whose scopes' erasure was begun, unless it went no further.

        Args:
            scopes: names those that still hold memories; not called where no erasure was begun.
        """
        if not self._erasing:
            return
        there = {_digest(scope) for scope in scopes()}
        with self._alone():
            self._erase({name for name in self._erasing if name not in there}, erasing=[])

    @property
    def _erasing(self) -> list[str]:
        return list(self._content.get("erasing", ()))

    def _erase(self, names: Set[str], erasing: Iterable[str] | None = None) -> None:
        """Write the file without some keys."""
        begun = self._erasing if erasing is None else erasing
        self._write(
            {name: kept for name, kept in self._content["keys"].items() if name not in names},
            erasing=[name for name in begun if name not in names],
        )
        self._keys = {name: key for name, key in self._keys.items() if name not in names}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """With the file as it is now, and nobody else writing to it: a key that is overwritten is lost for good."""
        with self._guard:
            if self._file is None:
                yield
                return
            try:
                with FileLock(self._file.with_name(FILE + ".lock"), timeout=30):
                    self._refresh()
                    yield
            except (Timeout, OSError) as error:
                raise StoreError(f"{self._file} cannot be written: {error}") from error

    def _state(self) -> tuple[int, int, int] | None:
        """What changes with every writing of the file; None where there is none."""
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _refresh(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        if state is None:
            raise KeyMissing(f"{self._file} was removed while it was in use; restore it from a copy")
        fresh = self._read()
        if self._seen is None:  # another ring made the file
            self._take(fresh)
            self._seen = state
            return
        if (fresh["locked"], fresh["salt"]) != (self._content["locked"], self._content["salt"]):
            raise KeyMissing(f"{self._file} was replaced while it was in use; open the store again")
        self._content, self._seen = fresh, state
        self._unlock_all()

    def _unlock_all(self) -> None:
        self._keys = {name: self._unlock(name, kept) for name, kept in self._content["keys"].items()}

    def _lock(self, name: str, key: bytes) -> str:
        sealed = key if self._lock_key is None else _encrypt(self._lock_key, key, name.encode())
        return base64.b64encode(sealed).decode()

    def _unlock(self, name: str, kept: str) -> bytes:
        try:
            sealed = base64.b64decode(kept, validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise StoreError(f"{self._file} is damaged: {error}; restore it from a copy") from error
        key = sealed if self._lock_key is None else _decrypt(self._lock_key, sealed, name.encode())
        if key is None:
            raise KeyMissing(f"the keys in {self._file} are locked with another passphrase or key")
        if len(key) != KEY_BYTES:
            raise StoreError(f"{self._file} is damaged: a key has {len(key)} bytes; restore it from a copy")
        return key

    def _read(self) -> dict[str, Any]:
        assert self._file is not None  # noqa: S101 -- called where it exists
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            newer = content["format"] > FORMAT
            sound = (
                isinstance(content["keys"], dict)
                and isinstance(content["locked"], bool)
                and isinstance(content.get("erasing", []), list)
            )
            bytes.fromhex(content["salt"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{self._file} is damaged: {error!r}; restore it from a copy") from error
        if newer:
            raise NewerFormat(f"{self._file} has a newer format; upgrade nextmem-agents")
        if not sound:
            raise StoreError(f"{self._file} is damaged; restore it from a copy")
        return dict(content)

    def _write(self, keys: dict[str, str], erasing: Sequence[str] | None = None) -> None:
        content = self._content | {
            "keys": keys,
            "erasing": self._erasing if erasing is None else list(erasing),
        }
        if self._file is None:
            self._content = content
            return
        fresh = self._file.with_name(FILE + ".new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
                json.dump(content, opened)
                opened.flush()
                os.fsync(opened.fileno())
            fresh.replace(self._file)
        except OSError as error:
            raise StoreError(f"{self._file} cannot be written: {error}") from error
        self._content, self._seen = content, self._state()


def seal(key: bytes, payload: bytes, binding: bytes) -> bytes:
    """Encrypt a payload (AES-256-GCM, 12 random bytes of nonce), bound to its place; 31 bytes longer."""
    return MAGIC + _encrypt(key, payload, binding)


def unseal(key: bytes, data: bytes, binding: bytes) -> bytes | None:
    """The payload in sealed bytes, or None if they are damaged, of another place, or of another key."""
    return _decrypt(key, data[len(MAGIC) :], binding)


def _encrypt(key: bytes, data: bytes, bound: bytes) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + bytes(_aes()(key).encrypt(nonce, data, bound))


def _decrypt(key: bytes, data: bytes, bound: bytes) -> bytes | None:
    cipher = _aes()(key)
    from cryptography.exceptions import InvalidTag

    try:
        return bytes(cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], bound))
    except (InvalidTag, ValueError):
        return None


def _aes() -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise MissingExtra(
            "encrypted scopes need cryptography: pip install 'nextmem-agents[encryption]'"
        ) from error
    return AESGCM


def _as_key(unlock: object, salt: bytes) -> bytes:
    if isinstance(unlock, bytes) and len(unlock) == KEY_BYTES:
        return unlock
    if isinstance(unlock, str) and unlock:
        try:
            return scrypt(unlock.encode(), salt=salt, **_SCRYPT)
        except UnicodeEncodeError as error:
            raise InvalidArgument(
                f"encryption_key contains a lone surrogate; give another passphrase, or {KEY_BYTES} bytes"
            ) from error
    raise InvalidArgument(f"encryption_key is a passphrase or {KEY_BYTES} bytes")


def _gate_of(file: Path) -> Gate:
    with _gates_guard:
        return _gates.setdefault((os.getpid(), os.path.realpath(file)), Gate())


def _digest(scope: str) -> str:
    return blake2b(scope.encode(), digest_size=16, person=b"nextmem keys").hexdigest()
