"""Text to token ids and back to bytes, with the codec's own tokenizer; nothing a user writes is special."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from nextmem_agents.errors import CheckpointError, InvalidArgument


def _byte_of_character() -> dict[str, int]:
    """The inverse of byte-level BPE's alphabet (GPT-2): printable bytes stand for themselves, the other 68
    for U+0100 onwards in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


class CodecTokenizer:
    """A byte-level BPE tokenizer in which special tokens inside a text stay text."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        table = _byte_of_character()
        added: dict[int, AddedToken] = tokenizer.get_added_tokens_decoder()
        self._bytes: dict[int, bytes] = {}
        for token, index in tokenizer.get_vocab(with_added_tokens=True).items():
            if index in added:
                # A special token never stands for text; a plain added one does, for its own.
                self._bytes[index] = b"" if added[index].special else token.encode()
            elif all(character in table for character in token):
                self._bytes[index] = bytes(table[character] for character in token)
            else:
                raise CheckpointError(
                    f"token {index} ({token!r}) is not byte-level: the codec needs a byte-level BPE tokenizer "
                    "(as Qwen3 has), which can give every text back exactly"
                )

    @classmethod
    def load(cls, folder: Path) -> CodecTokenizer:
        """Read ``tokenizer.json``.

        Raises:
            CheckpointError: no such file, or no byte-level tokenizer.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} holds no tokenizer.json; the checkpoint is incomplete")
        return cls(Tokenizer.from_file(str(path)))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text.

        Raises:
            InvalidArgument: a text is no string or has lone surrogates, which no encoding can keep.
        """
        for text in texts:
            check_text(text)
        return [item.ids for item in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character range of each token."""
        check_text(text)
        return self.tokenizer.encode(text, add_special_tokens=False).offsets  # type: ignore[no-any-return]

    def to_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes that token ids stand for; ids outside the vocabulary stand for none."""
        return b"".join(self._bytes.get(index, b"") for index in ids)


def check_text(text: object) -> None:
    """Raise InvalidArgument unless ``text`` is a string that UTF-8 can keep."""
    if not isinstance(text, str):
        raise InvalidArgument(f"a text must be a string, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"the text has a lone surrogate at character {error.start}, which is no character; "
            "clean it with text.encode('utf-8', 'replace').decode()"
        ) from error
