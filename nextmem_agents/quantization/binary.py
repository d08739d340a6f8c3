"""Bounded reading of bytes that may be damaged, and the varints in them (unsigned LEB128, shortest form)."""

from __future__ import annotations

from typing import Final

from nextmem_agents.errors import PayloadError

VARINT_BYTES: Final = 5


def varint(value: int) -> bytes:
    """A non-negative integer below 2**35: seven bits to a byte, least significant first.

    Examples:
        >>> varint(300).hex()
        'ac02'
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """A cursor over bytes that never reads past its end."""

    def __init__(self, data: bytes, end: int) -> None:
        self._data, self._at, self._end = data, 0, end

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return self._end - self._at

    def take(self, count: int, what: str) -> bytes:
        """The next ``count`` bytes; PayloadError names ``what`` is cut short if there are fewer."""
        if count > self.left:
            raise PayloadError(f"the payload is cut short: {what} takes {count} bytes, {self.left} are left")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, what: str, low: int, high: int) -> int:
        """The next varint; PayloadError if it is outside ``low`` … ``high`` or not in its shortest form."""
        value = 0
        for i in range(VARINT_BYTES):
            byte = self.take(1, what)[0]
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                if byte == 0 and i:
                    raise PayloadError(f"{what} is not in its shortest form")
                if not low <= value <= high:
                    raise PayloadError(f"{what} is {value}; it must be from {low} to {high}")
                return value
        raise PayloadError(f"{what} is longer than {VARINT_BYTES} bytes")
