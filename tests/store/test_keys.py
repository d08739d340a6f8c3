"""Keys of encrypted scopes: none is lost to another writer, none is read without what locks it."""

from __future__ import annotations

import json
import stat

import pytest

from nextmem_agents.errors import InvalidArgument, KeyMissing, NewerFormat, StoreError
from nextmem_agents.store.keys import FILE, KeyRing, seal, unseal


def test_two_rings_on_one_folder_lose_no_key(tmp_path):
    first, second = KeyRing(tmp_path), KeyRing(tmp_path)
    a = first.make("a")
    b = second.make("b")
    assert (second.get("a"), first.get("b")) == (a, b)
    assert first.make("a") == second.make("a") == a
    assert first.erase("a")
    assert second.get("a") is None
    assert not second.erase("a")
    assert KeyRing(tmp_path).get("b") == b
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("unlock", ["a passphrase", bytes(range(32)), None])
def test_rings_that_were_open_before_the_first_key_share_the_file(tmp_path, unlock):
    first, second = KeyRing(tmp_path, unlock), KeyRing(tmp_path, unlock)
    wrong = KeyRing(tmp_path, "wrong")
    key = first.make("a")
    assert second.get("a") == key
    other = second.make("b")
    assert first.get("b") == KeyRing(tmp_path, unlock).get("b") == other
    for _ in range(2):
        with pytest.raises(KeyMissing):
            wrong.get("a")


@pytest.mark.parametrize("unlock", ["a passphrase", bytes(range(32))])
def test_locked_keys_need_what_locked_them(tmp_path, unlock):
    key = KeyRing(tmp_path, unlock).make("alice")
    text = (tmp_path / FILE).read_text()
    assert "alice" not in text
    assert KeyRing(tmp_path, unlock).get("alice") == key
    for other in (None, "wrong", bytes(32)):
        with pytest.raises(KeyMissing):
            KeyRing(tmp_path, other)


def test_a_ring_without_a_lock_refuses_one(tmp_path):
    KeyRing(tmp_path).make("alice")
    with pytest.raises(KeyMissing, match="not locked"):
        KeyRing(tmp_path, "x")
    for malformed in ("", b"short", 5):
        with pytest.raises(InvalidArgument):
            KeyRing(tmp_path / "other", malformed)


def test_damage_is_told(tmp_path):
    KeyRing(tmp_path).make("alice")
    file = tmp_path / FILE
    sound = json.loads(file.read_text())
    for broken in (
        "",
        "[]",
        "{}",
        json.dumps(sound | {"keys": {"x": "!!"}}),
        json.dumps(sound | {"keys": {"x": "AA=="}}),
    ):
        file.write_text(broken)
        with pytest.raises(StoreError, match="damaged"):
            KeyRing(tmp_path)
    file.write_text(json.dumps(sound | {"format": 9}))
    with pytest.raises(NewerFormat):
        KeyRing(tmp_path)


def test_a_file_that_disappears_in_use_is_an_error_and_not_a_plain_scope(tmp_path):
    ring = KeyRing(tmp_path)
    ring.make("alice")
    (tmp_path / FILE).unlink()
    with pytest.raises(KeyMissing):
        ring.get("alice")


def test_what_is_sealed_opens_in_its_place_with_its_key_only():
    key, other = bytes(32), bytes([1] * 32)
    data = seal(key, b"payload", b"here")
    assert unseal(key, data, b"here") == b"payload"
    assert seal(key, b"payload", b"here") != data
    assert unseal(key, data, b"there") is None
    assert unseal(other, data, b"here") is None
    for i in range(len(data)):
        altered = bytearray(data)
        altered[i] ^= 1
        assert i < 3 or unseal(key, bytes(altered), b"here") is None
    assert unseal(key, b"NE\x01", b"here") is None
