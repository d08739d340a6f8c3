"""The payload: the bytes a store keeps for one chunk. This text is the format's specification.

Version 1. A *varint* is unsigned LEB128 (seven bits to a byte, least significant first, the high bit set on
all but the last byte), in its shortest form and at most 5 bytes. Sections follow one another, unpadded::

    offset  bytes      content
    0       2          magic: 4E 4D ("NM")
    2       1          version: 01
    3       1          flags
                         bits 0-1  body: 0 = literal text, 1 = NF4 per_dimension, 2 = NF4 per_latent,
                                   3 = few levels
                         bit 2     a repair section follows
                         bit 3     a copy of the text is kept beside the latents
                         bit 4     the text section is deflated
                         bits 5-7  0
    4       1          decode profile: dtype in the high nibble (0 float32, 1 bfloat16, 2 float16,
                       3 nf4, a backbone loaded in 4-bit), device class in the low (0 cpu, 1 cuda, 2 mps)
    5       4          codec id: a short id of the codec's fingerprint
    9       8          text checksum: BLAKE2b-64 of the chunk's text in UTF-8
    17      varint     n_tokens
            varint     n_bytes: length of the chunk's text in UTF-8

    repair section, if flagged
            varint     count, at least 1
            varint     how many of them the decoder gets wrong (the others are near-ties)
            count times, positions ascending:
              varint     position - previous position - 1 (the first: position)
              varint     token id

    latents section, if the body is 1 or 2
            varint     L
            varint     D
            D or L     FP8 E4M3 scales, each 00 to 7E: D of them for body 1, L for body 2
            L*ceil(D/2)  NF4 codes, L rows, two to a byte, first code in the high nibble, spare nibble 0

    latents section, if the body is 3
            varint     L
            varint     D
            1          levels: 02, 03, 04 or 08
            L*row      codes, each 0 to levels-1, the lowest level first; L rows of
              2 levels: ceil(D/8) bytes, eight codes to a byte: c0 in bit 0, c1 in bit 1 and so on
              3 levels: ceil(D/5) bytes, five codes to a byte: c0 + 3*c1 + 9*c2 + 27*c3 + 81*c4, at most F2
              4 levels: ceil(D/4) bytes, four to a byte: c0 in bits 0-1, c1 in bits 2-3 and so on
              8 levels: ceil(3*D/8) bytes; c0 in bits 0-2, c1 in bits 3-5 and so on of the row read as one
                        little-endian number (eight codes to three bytes)
              the digits and bits that a row's last byte has left over are 0

    text section, if the body is 0 or a copy is kept
      not deflated:
            n_bytes    the text in UTF-8
      deflated (only where that is shorter than the text):
            varint     length of the stream
            ...        raw DEFLATE stream (RFC 1951) of the text

    end-8   8          tag: keyed BLAKE2b-64 over all bytes before it

The tag's key is BLAKE2b-256 of the *binding* with the personalisation "nextmem payload". The binding names
the place the payload was written for (scope, memory, chunk; :func:`encode_binding`), so that a payload that
was damaged, or copied to another tenant's record, is refused. The key is no secret: the tag finds accidents
and misplacement, it does not authenticate a writer. A text may end inside a character (chunks join as bytes).

Limits: n_tokens 65,536; n_bytes 1 MiB; L 4,096; D 65,536; token ids below 2^31; the whole payload 16 MiB.
Writing observes them as reading does. With a body of latents n_tokens is at least 1. A literal body has
neither repair nor a second copy of the text. Nothing follows the tag.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Final

from nextmem_agents.errors import InvalidArgument, PayloadError
from nextmem_agents.quantization.binary import Reader, varint
from nextmem_agents.quantization.latents import (
    FEW_LEVELS,
    NF4_LEVELS,
    QuantizedLatents,
    Scheme,
    n_code_bytes,
    n_scale_bytes,
)

MAGIC: Final = b"NM"
VERSION: Final = 1

MAX_TOKENS: Final = 65_536
MAX_TEXT_BYTES: Final = 2**20
MAX_LATENTS: Final = 4_096
MAX_DIM: Final = 65_536
MAX_TOKEN_ID: Final = 2**31 - 1
MAX_PAYLOAD_BYTES: Final = 2**24

PROFILES: Final[dict[str, int]] = {
    f"{dtype}/{device}": dtype_code << 4 | device_code
    for dtype_code, dtype in enumerate(("float32", "bfloat16", "float16", "nf4"))
    for device_code, device in enumerate(("cpu", "cuda", "mps"))
}
"""Decode profiles (dtype "/" device class) and their bytes."""

_PROFILE_NAMES = {code: name for name, code in PROFILES.items()}

_BODY_CODES: Final[dict[Scheme, int]] = {"per_dimension": 1, "per_latent": 2, "few_levels": 3}
_BODY_SCHEMES = {code: scheme for scheme, code in _BODY_CODES.items()}

_CODEC_ID_BYTES = 4
_CHECKSUM_BYTES = 8
_TAG_BYTES = 8
_HEADER_BYTES = 17

_BODY = 0b0000_0011
_REPAIR = 0b0000_0100
_KEPT_TEXT = 0b0000_1000
_DEFLATED = 0b0001_0000
_KNOWN_FLAGS = 0b0001_1111


def text_checksum(data: bytes) -> bytes:
    """BLAKE2b of a chunk's UTF-8 bytes, 8 bytes long (RFC 7693).

    >>> text_checksum(b"She moved to Lisbon in May.").hex()
    '3f6fc2bc3a46a528'
    """
    return blake2b(data, digest_size=_CHECKSUM_BYTES).digest()


def encode_binding(*parts: str) -> bytes:
    """Encode names (scope, memory id, chunk number) so that different names never give the same bytes.

    Each part is its UTF-8 length as 4 big-endian bytes, then its UTF-8 bytes.

    Raises:
        InvalidArgument: a part is not text, or holds a lone surrogate.

    >>> encode_binding("alice", "7") == encode_binding("alic", "e7")
    False
    """
    encoded = bytearray()
    for part in parts:
        try:
            data = part.encode("utf-8")
        except (AttributeError, UnicodeEncodeError) as error:
            raise InvalidArgument(f"a binding is made of text that UTF-8 can hold, not {part!r}") from error
        encoded += len(data).to_bytes(4, "big") + data
    return bytes(encoded)


@dataclass(frozen=True)
class Payload:
    """What is kept for one chunk: quantised latents with their repair, or the text itself.

    Attributes:
        codec_id: 4 bytes, a short id of the codec's fingerprint.
        n_tokens: backbone tokens of the chunk, without special tokens; 0 only in a literal payload.
        text_checksum: :func:`text_checksum` of the chunk's UTF-8 bytes.
        n_bytes: length of the chunk's text in UTF-8 bytes.
        latents: the quantised latents, or None when the text is kept literally.
        repair: (position, token id) pairs, positions ascending from 0 and below ``n_tokens``.
        n_wrong: how many of the repairs replace a wrong token; the others secure a near-tie.
        profile: the decode profile in which repair was computed, a key of ``PROFILES``.
        literal: the text's UTF-8 bytes when it is kept in place of latents, else None.
        kept_text: the text's UTF-8 bytes when a copy is kept beside latents, else None.

    ``literal`` and ``kept_text`` are the plain bytes here and deflated in the payload where that is shorter.

    Raises:
        InvalidArgument: the fields contradict each other or exceed the format's limits.

    >>> text = b"She moved to Lisbon in May."
    >>> kept = Payload(b"mini", 8, text_checksum(text), len(text), literal=text)
    >>> data = kept.to_bytes(encode_binding("alice", "note-1", "0"))
    >>> len(data), Payload.from_bytes(data, encode_binding("alice", "note-1", "0")) == kept
    (54, True)
    >>> Payload.from_bytes(data, encode_binding("bob", "note-1", "0"))
    Traceback (most recent call last):
    nextmem_agents.errors.PayloadError: the payload is damaged or belongs to another scope or memory: ...
    """

    codec_id: bytes
    n_tokens: int
    text_checksum: bytes
    n_bytes: int
    latents: QuantizedLatents | None = None
    repair: tuple[tuple[int, int], ...] = ()
    n_wrong: int = 0
    profile: str = "float32/cpu"
    literal: bytes | None = None
    kept_text: bytes | None = None

    def __post_init__(self) -> None:
        _check_bytes("codec_id", self.codec_id, _CODEC_ID_BYTES)
        _check_bytes("text_checksum", self.text_checksum, _CHECKSUM_BYTES)
        _check_number("n_tokens", self.n_tokens, 0 if self.latents is None else 1, MAX_TOKENS)
        _check_number("n_bytes", self.n_bytes, 1, MAX_TEXT_BYTES)
        if self.profile not in PROFILES:
            raise InvalidArgument(f"unknown decode profile {self.profile!r}; known are {', '.join(PROFILES)}")
        if (self.latents is None) == (self.literal is None):
            raise InvalidArgument("a payload holds either latents or the literal text")
        if self.latents is None and (self.repair or self.kept_text is not None):
            raise InvalidArgument("a literal payload has neither repair nor a kept copy of the text")
        if self.latents is not None:
            _check_number("the number of latents", self.latents.shape[0], 1, MAX_LATENTS)
            _check_number("the latents' width", self.latents.shape[1], 1, MAX_DIM)
        for name, text in (("literal", self.literal), ("kept_text", self.kept_text)):
            if text is not None:
                _check_bytes(name, text, self.n_bytes)
                if text_checksum(text) != self.text_checksum:
                    raise InvalidArgument(f"{name} is not the text that text_checksum belongs to")
        previous = -1
        for position, token in self.repair:
            _check_number("a repair's position", position, previous + 1, self.n_tokens - 1)
            _check_number("a repair's token id", token, 0, MAX_TOKEN_ID)
            previous = position
        _check_number("n_wrong", self.n_wrong, 0, len(self.repair))

    def to_bytes(self, binding: bytes) -> bytes:
        """Write the payload.

        Args:
            binding: what the payload belongs to, from :func:`encode_binding`; reading needs the same.

        Returns:
            The bytes that the module's text specifies.

        Raises:
            InvalidArgument: the payload would exceed ``MAX_PAYLOAD_BYTES``, or the binding is not bytes.
        """
        body = 0 if self.latents is None else _BODY_CODES[self.latents.scheme]
        text = self.literal if self.kept_text is None else self.kept_text
        text_section, deflated = _text_section(text)
        flags = (
            body
            | (_REPAIR if self.repair else 0)
            | (_KEPT_TEXT if self.kept_text is not None else 0)
            | (_DEFLATED if deflated else 0)
        )
        out = bytearray(MAGIC)
        out += bytes((VERSION, flags, PROFILES[self.profile]))
        out += self.codec_id + self.text_checksum
        out += varint(self.n_tokens) + varint(self.n_bytes)
        if self.repair:
            out += varint(len(self.repair)) + varint(self.n_wrong)
            for (before, _), (position, token) in pairwise(((-1, 0), *self.repair)):
                out += varint(position - before - 1) + varint(token)
        if self.latents is not None:
            n_latents, dim = self.latents.shape
            out += varint(n_latents) + varint(dim)
            if self.latents.scheme == "few_levels":
                out.append(self.latents.levels)
            out += self.latents.scales + self.latents.codes
        out += text_section
        if len(out) + _TAG_BYTES > MAX_PAYLOAD_BYTES:
            raise InvalidArgument(
                f"the payload takes {len(out) + _TAG_BYTES} bytes; the format's limit is {MAX_PAYLOAD_BYTES}"
            )
        return bytes(out) + _tag(binding, out)

    @classmethod
    def from_bytes(cls, data: bytes, binding: bytes, max_token_id: int = MAX_TOKEN_ID) -> Payload:
        """Read a payload, believing nothing: each length is checked before it is used.

        Args:
            data: what :meth:`to_bytes` wrote.
            binding: the same as in writing.
            max_token_id: the greatest id that the codec's vocabulary has.

        Returns:
            The payload.

        Raises:
            PayloadError: the bytes are damaged, belong elsewhere, or were written by a newer version; the
                message says which.
            InvalidArgument: the binding is not bytes.
        """
        data = _checked_envelope(data)
        end = len(data) - _TAG_BYTES
        if _tag(binding, data[:end]) != data[end:]:
            raise PayloadError(
                "the payload is damaged or belongs to another scope or memory: its tag does not match"
            )
        try:
            return _parse(Reader(data, end), max_token_id)
        except InvalidArgument as error:
            raise PayloadError(f"the payload contradicts itself: {error}") from error


def _checked_envelope(data: bytes) -> bytes:
    """The data as ``bytes``, of a possible size, with this format's magic and version."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise PayloadError(f"a payload is bytes, not {type(data).__name__}")
    data = bytes(data)
    if len(data) > MAX_PAYLOAD_BYTES:
        raise PayloadError(f"{len(data)} bytes exceed the format's limit of {MAX_PAYLOAD_BYTES}")
    if data[:2] != MAGIC:
        raise PayloadError("these bytes are not a NextMem payload: they do not start with 'NM'")
    if len(data) > 2 and data[2] > VERSION:
        raise PayloadError(
            f"payload format {data[2]}: a newer nextmem-agents wrote it (this one reads format {VERSION}); "
            "upgrade the package"
        )
    if len(data) > 2 and data[2] != VERSION:
        raise PayloadError(f"payload format {data[2]} does not exist; the payload is damaged")
    if len(data) < _HEADER_BYTES + _TAG_BYTES:
        raise PayloadError(f"the payload is cut short: {len(data)} bytes hold no header and tag")
    return data


def _parse(reader: Reader, max_token_id: int) -> Payload:
    """Read what the tag has vouched for; a wrong or hostile writer is still possible."""
    reader.take(len(MAGIC) + 1, "the magic and version")
    flags, profile_code = reader.take(2, "the flags and profile")
    body = flags & _BODY
    if flags & ~_KNOWN_FLAGS:
        raise PayloadError(f"unknown flags 0x{flags:02x} in the payload")
    if body == 0 and flags & (_REPAIR | _KEPT_TEXT):
        raise PayloadError("a literal payload is flagged to hold repair or a second copy of the text")
    has_text = body == 0 or bool(flags & _KEPT_TEXT)
    if flags & _DEFLATED and not has_text:
        raise PayloadError("the payload is flagged as deflated but holds no text")
    if profile_code not in _PROFILE_NAMES:
        raise PayloadError(f"unknown decode profile 0x{profile_code:02x}: a newer nextmem-agents wrote it")
    codec_id = reader.take(_CODEC_ID_BYTES, "the codec id")
    checksum = reader.take(_CHECKSUM_BYTES, "the text checksum")
    n_tokens = reader.number("n_tokens", 0, MAX_TOKENS)
    n_bytes = reader.number("n_bytes", 1, MAX_TEXT_BYTES)
    repair, n_wrong = _read_repair(reader, n_tokens, max_token_id) if flags & _REPAIR else ((), 0)
    latents = _read_latents(reader, _BODY_SCHEMES[body]) if body else None
    text = _read_text(reader, n_bytes, bool(flags & _DEFLATED)) if has_text else None
    if reader.left:
        raise PayloadError(f"{reader.left} bytes follow the end of the payload")
    return Payload(
        codec_id=codec_id,
        n_tokens=n_tokens,
        text_checksum=checksum,
        n_bytes=n_bytes,
        latents=latents,
        repair=repair,
        n_wrong=n_wrong,
        profile=_PROFILE_NAMES[profile_code],
        literal=None if body else text,
        kept_text=text if body else None,
    )


def _read_repair(reader: Reader, n_tokens: int, max_token_id: int) -> tuple[tuple[tuple[int, int], ...], int]:
    count = reader.number("the number of repairs", 1, max(n_tokens, 1))
    n_wrong = reader.number("the number of wrong tokens", 0, count)
    if 2 * count > reader.left:
        raise PayloadError(f"the payload is cut short: {count} repairs do not fit in {reader.left} bytes")
    repair, previous = [], -1
    for _ in range(count):
        position = previous + 1 + reader.number("a repair's distance", 0, MAX_TOKENS)
        token = reader.number("a repair's token id", 0, max_token_id)
        repair.append((position, token))
        previous = position
    return tuple(repair), n_wrong


def _read_latents(reader: Reader, scheme: Scheme) -> QuantizedLatents:
    shape = (
        reader.number("the number of latents", 1, MAX_LATENTS),
        reader.number("the latents' width", 1, MAX_DIM),
    )
    levels = reader.take(1, "the number of levels")[0] if scheme == "few_levels" else NF4_LEVELS
    if scheme == "few_levels" and levels not in FEW_LEVELS:
        raise PayloadError(f"{levels} levels: the format has {', '.join(map(str, FEW_LEVELS))}")
    scales = reader.take(n_scale_bytes(scheme, shape), "the scales")
    codes = reader.take(n_code_bytes(shape, levels), "the codes")
    return QuantizedLatents(scheme, codes, scales, shape, levels)


def _read_text(reader: Reader, n_bytes: int, deflated: bool) -> bytes:
    if not deflated:
        return reader.take(n_bytes, "the text")
    stream = reader.take(
        reader.number("the length of the deflated text", 1, n_bytes - 1), "the deflated text"
    )
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        text = inflater.decompress(stream, n_bytes + 1)
    except zlib.error as error:
        raise PayloadError(f"the text cannot be inflated: {error}") from error
    if len(text) != n_bytes or not inflater.eof or inflater.unused_data:
        raise PayloadError(f"the deflated text does not give exactly {n_bytes} bytes")
    return text


def _text_section(text: bytes | None) -> tuple[bytes, bool]:
    """The section's bytes, and whether they are deflated."""
    if text is None:
        return b"", False
    deflater = zlib.compressobj(level=9, wbits=-zlib.MAX_WBITS)
    stream = deflater.compress(text) + deflater.flush()
    section = varint(len(stream)) + stream
    return (section, True) if len(section) < len(text) else (text, False)


def _tag(binding: bytes, data: bytes | bytearray) -> bytes:
    if not isinstance(binding, bytes):
        raise InvalidArgument(f"a binding is bytes, not {type(binding).__name__}; encode_binding makes one")
    key = blake2b(binding, digest_size=32, person=b"nextmem payload").digest()
    return blake2b(data, key=key, digest_size=_TAG_BYTES).digest()


def _check_bytes(name: str, value: bytes, length: int) -> None:
    if not isinstance(value, bytes) or len(value) != length:
        found = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise InvalidArgument(f"{name} must be {length} bytes, not {found}")


def _check_number(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise InvalidArgument(f"{name} is {value!r}; it must be an integer from {low} to {high}")
