"""The bytes kept for one chunk: exact there and back, small, and refused when anything in them is wrong."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents.errors import InvalidArgument, PayloadError
from nextmem_agents.quantization import Payload, QuantizedLatents, encode_binding, text_checksum
from nextmem_agents.quantization import payload as module
from nextmem_agents.quantization.latents import FEW_LEVELS, SCHEMES, n_code_bytes, n_scale_bytes

Seal = Callable[[bytes, bytes], bytes]

BINDING = encode_binding("alice", "note-1", "0")
TEXT = "She moved to Lisbon in May, and says the café by the river is the best she knows.".encode()
SPEC_CHECKSUM = blake2b(TEXT, digest_size=8).digest()


def typical(n_tokens: int = 120, n_latents: int = 15, dim: int = 256) -> Payload:
    codes = bytes(i * 37 % 256 for i in range(n_latents * dim // 2))
    latents = QuantizedLatents("per_latent", codes, bytes(range(0x30, 0x30 + n_latents)), (n_latents, dim))
    return Payload(b"mini", n_tokens, text_checksum(TEXT), len(TEXT), latents=latents)


def packed(digits: list[int], levels: int) -> bytes:
    """One row of few-level codes, written a second time from the specification."""
    if levels == 3:
        groups = [digits[i : i + 5] for i in range(0, len(digits), 5)]
        return bytes(sum(digit * 3**i for i, digit in enumerate(group)) for group in groups)
    bits = {2: 1, 4: 2, 8: 3}[levels]
    number = sum(digit << bits * i for i, digit in enumerate(digits))
    return number.to_bytes((bits * len(digits) + 7) // 8, "little")


@st.composite
def quantised(draw: st.DrawFn) -> QuantizedLatents:
    scheme = draw(st.sampled_from(SCHEMES))
    shape = (draw(st.integers(1, 17)), draw(st.integers(1, 40)))
    if scheme == "few_levels":
        levels = draw(st.sampled_from(FEW_LEVELS))
        digits = st.lists(st.integers(0, levels - 1), min_size=shape[1], max_size=shape[1])
        packed_rows = b"".join(packed(draw(digits), levels) for _ in range(shape[0]))
        return QuantizedLatents(scheme, packed_rows, b"", shape, levels)
    codes = bytearray(draw(st.binary(min_size=n_code_bytes(shape), max_size=n_code_bytes(shape))))
    if shape[1] % 2:
        width = (shape[1] + 1) // 2
        for last in range(width - 1, len(codes), width):
            codes[last] &= 0xF0
    n_scales = n_scale_bytes(scheme, shape)
    scales = bytes(draw(st.lists(st.integers(0, 0x7E), min_size=n_scales, max_size=n_scales)))
    return QuantizedLatents(scheme, bytes(codes), scales, shape)


@st.composite
def payloads(draw: st.DrawFn) -> Payload:
    text = draw(st.one_of(st.binary(min_size=1, max_size=80), st.text(min_size=1).map(str.encode)))
    text *= draw(st.sampled_from([1, 1, 2, 50]))
    latents = draw(st.none() | quantised())
    n_tokens = draw(st.integers(0 if latents is None else 1, module.MAX_TOKENS))
    positions = draw(st.sets(st.integers(0, n_tokens - 1), max_size=20)) if latents else set()
    tokens = st.integers(0, module.MAX_TOKEN_ID)
    return Payload(
        codec_id=draw(st.binary(min_size=4, max_size=4)),
        n_tokens=n_tokens,
        text_checksum=text_checksum(text),
        n_bytes=len(text),
        latents=latents,
        repair=tuple((position, draw(tokens)) for position in sorted(positions)),
        n_wrong=draw(st.integers(0, len(positions))),
        profile=draw(st.sampled_from(sorted(module.PROFILES))),
        literal=text if latents is None else None,
        kept_text=text if latents is not None and draw(st.booleans()) else None,
    )


@given(payloads(), st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
@settings(deadline=None, max_examples=300)
def test_reading_gives_what_was_written(payload: Payload, parts: list[str]) -> None:
    binding = encode_binding(*parts)
    data = payload.to_bytes(binding)
    assert Payload.from_bytes(data, binding) == payload
    assert Payload.from_bytes(memoryview(data), binding) == payload  # type: ignore[arg-type]
    assert Payload.from_bytes(bytearray(data), binding) == payload  # type: ignore[arg-type]


def test_the_layout_is_the_documented_one(seal: Seal) -> None:
    """Written by hand from the specification: if this changes, the version must."""
    body = (
        b"NM\x01"
        + bytes([0b01110])  # per_latent, repair, kept text, not deflated
        + b"\x11"  # bfloat16 / cuda
        + b"mini"
        + blake2b(b"ab \xc3", digest_size=8).digest()
        + b"\x82\x01"  # 130 tokens
        + b"\x04"  # 4 bytes of text
        + b"\x02\x01"  # 2 repairs, 1 of a wrong token
        + b"\x00\x07\x80\x01\x80\x80\x01"  # (0, 7), then 128 further on (129, 16384)
        + b"\x02\x03"  # 2 latents of width 3
        + b"\x38\x40"
        + b"\x12\x30\xff\xf0"
        + b"ab \xc3"
    )
    expected = Payload(
        codec_id=b"mini",
        n_tokens=130,
        text_checksum=text_checksum(b"ab \xc3"),
        n_bytes=4,
        latents=QuantizedLatents("per_latent", b"\x12\x30\xff\xf0", b"\x38\x40", (2, 3)),
        repair=((0, 7), (129, 16384)),
        n_wrong=1,
        profile="bfloat16/cuda",
        kept_text=b"ab \xc3",
    )
    assert Payload.from_bytes(seal(body, BINDING), BINDING) == expected
    assert expected.to_bytes(BINDING) == seal(body, BINDING)


@pytest.mark.parametrize(
    ("levels", "digits", "codes"),
    [
        (2, [1, 0, 1, 1, 0, 0, 0, 1, 1], b"\x8d\x01"),
        (3, [2, 0, 1, 0, 2, 1], b"\xad\x01"),
        (4, [0, 1, 2, 3, 2], b"\xe4\x02"),
        (8, [7, 0, 5], b"\x47\x01"),
    ],
)
def test_few_levels_have_the_documented_layout(
    levels: int, digits: list[int], codes: bytes, seal: Seal
) -> None:
    head = b"NM\x01\x03\x00mini" + SPEC_CHECKSUM + b"\x05" + bytes([len(TEXT)])
    body = head + b"\x02" + bytes([len(digits), levels]) + codes * 2
    assert packed(digits, levels) == codes
    latents = QuantizedLatents("few_levels", codes * 2, b"", (2, len(digits)), levels)
    payload = Payload(b"mini", 5, text_checksum(TEXT), len(TEXT), latents=latents)
    assert Payload.from_bytes(seal(body, BINDING), BINDING) == payload
    assert payload.to_bytes(BINDING) == seal(body, BINDING)


def test_few_levels_bring_a_payload_below_its_text() -> None:
    """128 tokens at 16 tokens per latent, D 256, ternary, against the 550 bytes such a chunk has at least."""
    latents = QuantizedLatents("few_levels", bytes(8 * 52), b"", (8, 256), 3)
    payload = replace(typical(128), latents=latents, n_bytes=550)
    assert len(payload.to_bytes(BINDING)) == 8 * 52 + 33


def test_a_deflated_literal_has_the_documented_layout(seal: Seal) -> None:
    text = b"hello " * 40
    stream = zlib.compress(text, 9)[2:-4]  # without zlib's header and sum
    body = (
        b"NM\x01\x10\x00mini"
        + blake2b(text, digest_size=8).digest()
        + b"\x50\xf0\x01"
        + bytes([len(stream)])
        + stream
    )
    payload = Payload(b"mini", 80, text_checksum(text), 240, literal=text)
    assert Payload.from_bytes(seal(body, BINDING), BINDING) == payload
    assert payload.to_bytes(BINDING) == seal(body, BINDING)


def test_overhead_is_at_most_32_bytes() -> None:
    for n_tokens in (7, 120, 128):
        payload = typical(n_tokens)
        assert payload.latents is not None
        assert len(payload.to_bytes(BINDING)) - payload.latents.n_bytes <= 32
    released = QuantizedLatents("per_dimension", bytes(30_720), bytes(4_096), (15, 4_096))
    assert len(replace(typical(128), latents=released, n_bytes=600).to_bytes(BINDING)) == 34_816 + 32


def test_text_is_deflated_only_where_that_is_shorter() -> None:
    noise = blake2b(b"noise").digest()
    for text in (b"a", noise):
        payload = Payload(b"mini", 3, text_checksum(text), len(text), literal=text)
        assert len(payload.to_bytes(BINDING)) == 17 + 2 + len(text) + 8
    long = TEXT * 8
    kept = replace(typical(), text_checksum=text_checksum(long), n_bytes=len(long))
    without = len(kept.to_bytes(BINDING))
    assert len(replace(kept, kept_text=long).to_bytes(BINDING)) - without < len(long) / 4


# -- damage and misplacement


def test_every_flipped_bit_is_noticed() -> None:
    payload = replace(typical(dim=16, n_latents=4), repair=((3, 8191), (77, 2)), n_wrong=1, kept_text=TEXT)
    data = payload.to_bytes(BINDING)
    for i in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[i // 8] ^= 1 << i % 8
        with pytest.raises(PayloadError):
            Payload.from_bytes(bytes(flipped), BINDING)


def test_every_truncation_and_any_appendix_is_noticed() -> None:
    data = typical(dim=16).to_bytes(BINDING)
    for length in range(len(data)):
        with pytest.raises(PayloadError):
            Payload.from_bytes(data[:length], BINDING)
    with pytest.raises(PayloadError, match="damaged or belongs to another scope or memory"):
        Payload.from_bytes(data + b"\x00", BINDING)


def test_a_payload_is_refused_in_another_place() -> None:
    data = typical().to_bytes(BINDING)
    places = [
        ("bob", "note-1", "0"),
        ("alice", "note-2", "0"),
        ("alice", "note-1", "1"),
        ("alicenote-1", "0"),
    ]
    for place in [*places, ()]:
        with pytest.raises(PayloadError, match="damaged or belongs to another scope or memory"):
            Payload.from_bytes(data, encode_binding(*place))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=4), st.data())
@settings(deadline=None)
def test_different_names_never_give_the_same_binding(parts: list[str], data: st.DataObject) -> None:
    others = data.draw(st.lists(st.text("".join(parts) or "a", max_size=4), max_size=4))
    assert (encode_binding(*parts) == encode_binding(*others)) == (parts == others)


def test_bindings_are_text() -> None:
    for part in ("\ud800", 7, None, b"alice"):
        with pytest.raises(InvalidArgument, match="a binding is made of text"):
            encode_binding(part)  # type: ignore[arg-type]
    for call in (lambda: typical().to_bytes("alice"), lambda: Payload.from_bytes(bytes(99), "alice")):  # type: ignore[arg-type]
        with pytest.raises((InvalidArgument, PayloadError)):
            call()


def test_what_is_no_payload_is_named_as_such(seal: Seal) -> None:
    data = typical().to_bytes(BINDING)
    for wrong, message in [
        (None, "a payload is bytes, not NoneType"),
        ("NM", "a payload is bytes, not str"),
        (b"", "not a NextMem payload"),
        (b"PK\x03\x04" + data, "not a NextMem payload"),
        (data[:20], "cut short: 20 bytes"),
        (b"NM\x02" + data[3:], "payload format 2: a newer nextmem-agents wrote it"),
        (b"NM\xff", "payload format 255: a newer nextmem-agents wrote it"),
        (b"NM\x00" + data[3:], "payload format 0 does not exist"),
        (b"NM\x01" + bytes(module.MAX_PAYLOAD_BYTES), "exceed the format's limit"),
    ]:
        with pytest.raises(PayloadError, match=message):
            Payload.from_bytes(wrong, BINDING)  # type: ignore[arg-type]


# -- behind the tag

HEAD = b"mini" + SPEC_CHECKSUM
N_TEXT = bytes([len(TEXT)])
LATENTS = b"\x01\x04\x38\x12\x34"
FEW = b"\x03\x00" + HEAD + b"\x05" + N_TEXT


def deflate(text: bytes) -> bytes:
    return zlib.compress(text, 9)[2:-4]  # without zlib's header and sum


WRONG_BODIES = {
    "reserved flag": (b"\x20\x00" + HEAD + b"\x05" + N_TEXT + TEXT, "unknown flags 0x20"),
    "no levels": (FEW + b"\x01\x05", "cut short: the number of levels"),
    "five levels": (FEW + b"\x01\x05\x05\x00", "5 levels: the format has 2, 3, 4, 8"),
    "sixteen levels": (FEW + b"\x01\x05\x10\x00", "16 levels: the format has 2, 3, 4, 8"),
    "beyond base 3": (FEW + b"\x01\x05\x03\xf3", "more than five base-3 digits"),
    "spare digit": (FEW + b"\x01\x06\x03\x00\x03", "spare base-3 digits"),
    "spare bits of 4": (FEW + b"\x01\x05\x04\x00\x04", "spare bits"),
    "spare bits of 8": (FEW + b"\x01\x03\x08\x00\x02", "spare bits"),
    "cut few codes": (FEW + b"\x02\x08\x08\x00\x00\x00\x00\x00", "cut short: the codes takes 6"),
    "scales of few levels": (FEW + b"\x01\x04\x04\x38\xe4", "1 bytes follow"),
    "few levels of nothing": (FEW + b"\x00\x04\x04", "number of latents is 0"),
    "unknown profile": (b"\x00\x4f" + HEAD + b"\x05" + N_TEXT + TEXT, "unknown decode profile 0x4f: a newer"),
    "literal with repair": (b"\x04\x00" + HEAD + b"\x05" + N_TEXT + TEXT, "literal payload is flagged"),
    "literal kept twice": (b"\x08\x00" + HEAD + b"\x05" + N_TEXT + TEXT, "literal payload is flagged"),
    "deflated nothing": (b"\x12\x00" + HEAD + b"\x05" + N_TEXT + LATENTS, "deflated but holds no text"),
    "long varint": (b"\x00\x00" + HEAD + b"\xff\xff\xff\xff\xff\x01" + N_TEXT + TEXT, "n_tokens is longer"),
    "padded varint": (b"\x00\x00" + HEAD + b"\x85\x00" + N_TEXT + TEXT, "n_tokens is not in its shortest"),
    "cut varint": (b"\x00\x00" + HEAD + b"\x05\x85", "cut short: n_bytes"),
    "many tokens": (b"\x00\x00" + HEAD + b"\x81\x80\x04" + N_TEXT + TEXT, "n_tokens is 65537"),
    "no tokens": (b"\x02\x00" + HEAD + b"\x00" + N_TEXT + LATENTS, "n_tokens is 0"),
    "no text": (b"\x00\x00" + HEAD + b"\x05\x00", "n_bytes is 0"),
    "much text": (b"\x00\x00" + HEAD + b"\x05\x81\x80\x40" + TEXT, "n_bytes is 1048577"),
    "short text": (b"\x00\x00" + HEAD + b"\x05" + N_TEXT + TEXT[:-1], "cut short: the text takes"),
    "other text": (b"\x00\x00" + HEAD + b"\x05" + N_TEXT + TEXT[::-1], "literal is not the text"),
    "trailing": (b"\x00\x00" + HEAD + b"\x05" + N_TEXT + TEXT + b"\x00", "1 bytes follow the end"),
    "no repairs": (b"\x06\x00" + HEAD + b"\x05" + N_TEXT + b"\x00" + LATENTS, "number of repairs is 0"),
    "six repairs": (b"\x06\x00" + HEAD + b"\x05" + N_TEXT + b"\x06" + LATENTS, "number of repairs is 6"),
    "cut repairs": (
        b"\x06\x00" + HEAD + b"\x05" + N_TEXT + b"\x05\x00" + LATENTS,
        "5 repairs do not fit in 5",
    ),
    "wrong beyond": (b"\x06\x00" + HEAD + b"\x05" + N_TEXT + b"\x01\x02\x00\x07", "wrong tokens is 2"),
    "repair beyond": (b"\x06\x00" + HEAD + b"\x05" + N_TEXT + b"\x01\x00\x05\x07" + LATENTS, "position is 5"),
    "foreign token": (
        b"\x06\x00" + HEAD + b"\x05" + N_TEXT + b"\x01\x01\x01\x80\x40" + LATENTS,
        "id is 8192",
    ),
    "no latents": (b"\x02\x00" + HEAD + b"\x05" + N_TEXT + b"\x00\x04", "number of latents is 0"),
    "no width": (b"\x02\x00" + HEAD + b"\x05" + N_TEXT + b"\x01\x00\x38", "width is 0"),
    "wide": (b"\x02\x00" + HEAD + b"\x05" + N_TEXT + b"\x80\x20\x80\x80\x04", "cut short: the scales"),
    "too wide": (b"\x02\x00" + HEAD + b"\x05" + N_TEXT + b"\x01\x81\x80\x04", "width is 65537"),
    "cut codes": (b"\x02\x00" + HEAD + b"\x05" + N_TEXT + b"\x01\x04\x38\x12", "cut short: the codes"),
    "nan scale": (b"\x02\x00" + HEAD + b"\x05" + N_TEXT + b"\x01\x04\x7f\x12\x34", "scale byte 0x7f"),
    "spare nibble": (b"\x02\x00" + HEAD + b"\x05" + N_TEXT + b"\x01\x03\x38\x12\x34", "spare nibble"),
    "no stream": (b"\x10\x00" + HEAD + b"\x05" + N_TEXT + b"\x00", "length of the deflated text is 0"),
    "cut stream": (b"\x10\x00" + HEAD + b"\x05" + N_TEXT + b"\x40\x01", "cut short: the deflated text"),
    "bad stream": (b"\x10\x00" + HEAD + b"\x05" + N_TEXT + b"\x03\xff\xff\xff", "cannot be inflated"),
    "bomb": (b"\x10\x00" + HEAD + b"\x05\xe8\x07\xbf\x07" + deflate(bytes(980_000)), "give exactly 1000"),
    "deflated longer": (b"\x10\x00" + HEAD + b"\x05\x01\x03" + deflate(b"a"), "must be from 1 to 0"),
    "stream and more": (b"\x10\x00" + HEAD + b"\x05\x64\x05" + deflate(b"a" * 100) + b"\x00", "exactly 100"),
}


@pytest.mark.parametrize("name", WRONG_BODIES)
def test_the_parser_names_what_is_wrong(name: str, seal: Seal) -> None:
    body, message = WRONG_BODIES[name]
    with pytest.raises(PayloadError, match=message):
        Payload.from_bytes(seal(b"NM\x01" + body, BINDING), BINDING, max_token_id=8191)


# -- fields


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"codec_id": b"min"}, "codec_id must be 4 bytes, not 3 bytes"),
        ({"codec_id": "mini"}, "codec_id must be 4 bytes, not str"),
        ({"text_checksum": b""}, "text_checksum must be 8 bytes"),
        ({"n_tokens": 0}, "n_tokens is 0"),
        ({"n_tokens": 2**16 + 1}, "n_tokens is 65537"),
        ({"n_tokens": 1.0}, "n_tokens is 1.0"),
        ({"n_bytes": 0}, "n_bytes is 0"),
        ({"n_bytes": 2**20 + 1}, "n_bytes is 1048577"),
        ({"profile": "int8/tpu"}, "unknown decode profile"),
        ({"latents": None}, "either latents or the literal text"),
        ({"literal": TEXT}, "either latents or the literal text"),
        ({"latents": None, "literal": TEXT, "repair": ((0, 1),)}, "neither repair"),
        ({"latents": None, "literal": TEXT, "kept_text": TEXT}, "neither repair"),
        ({"latents": None, "literal": TEXT[1:]}, "literal must be"),
        ({"kept_text": TEXT[::-1]}, "kept_text is not the text"),
        ({"repair": ((120, 0),)}, "position is 120"),
        ({"repair": ((-1, 0),)}, "position is -1"),
        ({"repair": ((5, 0), (5, 0))}, "position is 5"),
        ({"n_wrong": 1}, "n_wrong is 1"),
        ({"repair": ((5, 7),), "n_wrong": 2}, "n_wrong is 2"),
        ({"repair": ((5, -1),)}, "token id is -1"),
        ({"repair": ((5, 2**31),)}, "token id is 2147483648"),
        ({"latents": QuantizedLatents("per_latent", bytes(4097), bytes(4097), (4097, 1))}, "4097"),
        ({"latents": QuantizedLatents("per_latent", bytes(32769), bytes(1), (1, 65537))}, "width is 65537"),
    ],
)
def test_a_payload_cannot_contradict_itself(changed: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        replace(typical(), **changed)  # type: ignore[arg-type]


def test_what_reading_would_refuse_is_not_written() -> None:
    shape = (4096, 10_000)
    large = QuantizedLatents("per_latent", bytes(n_code_bytes(shape)), bytes(4096), shape)
    with pytest.raises(InvalidArgument, match="the format's limit is 16777216"):
        replace(typical(), latents=large).to_bytes(BINDING)
