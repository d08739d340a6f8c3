"""Text to token ids and back to bytes, with the codec's own tokenizer; nothing a user writes is special."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from nextmem_agents.errors import CheckpointError, InvalidArgument

FILE = "tokenizer.json"


def _byte_of_character() -> dict[str, int]:
    """The inverse of byte-level BPE's alphabet (GPT-2): printable bytes stand for themselves, the other 68
    for U+0100 onwards in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


class CodecTokenizer:
    """A byte-level BPE tokenizer in which special and added tokens inside a text stay text."""

    def __init__(self, tokenizer: Tokenizer):
        self._source: str = tokenizer.to_str()
        self.tokenizer = self._fresh()
        added: dict[int, AddedToken] = self.tokenizer.get_added_tokens_decoder()
        # What is marked special can be told to stay text; that mark must not change what decoding drops.
        self._bytes = self._bytes_of_tokens(added)
        self.tokenizer.add_special_tokens(
            [AddedToken(token.content, special=True, normalized=token.normalized) for token in added.values()]
        )
        self.tokenizer.encode_special_tokens = True

    def _fresh(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(self._source)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _bytes_of_tokens(self, added: dict[int, AddedToken]) -> dict[int, bytes]:
        table = _byte_of_character()
        bytes_of: dict[int, bytes] = {}
        for token, index in self.tokenizer.get_vocab(with_added_tokens=True).items():
            if index in added:
                # A special token never stands for text; a plain added one does, for its own.
                bytes_of[index] = b"" if added[index].special else token.encode()
            elif all(character in table for character in token):
                bytes_of[index] = bytes(table[character] for character in token)
            else:
                raise CheckpointError(
                    f"token {index} ({token!r}) is not byte-level: the codec needs a byte-level BPE "
                    f"tokenizer "
                    "(as Qwen3 has), which can give every text back exactly"
                )
        return bytes_of

    @classmethod
    def load(cls, folder: Path) -> CodecTokenizer:
        """Read ``tokenizer.json``.

        Raises:
            CheckpointError: no such file, or no byte-level tokenizer.
        """
        path = folder / FILE
        if not path.is_file():
            raise CheckpointError(f"{folder} holds no {FILE}; the checkpoint is incomplete")
        return cls.parse(path.read_text(encoding="utf-8"), str(path))

    @classmethod
    def parse(cls, tokenizer_json: str, source: str = FILE) -> CodecTokenizer:
        """From the text of a ``tokenizer.json``.

        Raises:
            CheckpointError: it describes no byte-level tokenizer; ``source`` is named.
        """
        try:
            return cls(Tokenizer.from_str(tokenizer_json))
        except CheckpointError:
            raise
        except Exception as error:  # tokenizers raises no narrower type
            raise CheckpointError(f"{source} cannot be read as a tokenizer: {error}") from error

    def encode(self, texts: Sequence[str], *, parse_special_tokens: bool = False) -> list[list[int]]:
        """Token ids of each text.

        Args:
            texts: any number.
            parse_special_tokens: take ``<|im_end|>`` and its like inside a text for the token, as the
                released code does.

        Raises:
            InvalidArgument: a text is no string or has lone surrogates, which no encoding can keep.
        """
        texts = list(texts)
        for text in texts:
            check_text(text)
        tokenizer = self._parsing if parse_special_tokens else self.tokenizer
        return [item.ids for item in tokenizer.encode_batch(texts, add_special_tokens=False)]

    @cached_property
    def _parsing(self) -> Tokenizer:
        return self._fresh()

    def control(self, token: str) -> int:
        """The id of a special or added token, by its content.

        Raises:
            CheckpointError: the tokenizer has no such token.
        """
        index: int | None = self.tokenizer.token_to_id(token)
        if index is None:
            raise CheckpointError(f"the tokenizer has no token {token!r}; the codec needs Qwen3's tokenizer")
        return index

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character range of each token."""
        check_text(text)
        return self.tokenizer.encode(text, add_special_tokens=False).offsets

    def to_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes that token ids stand for; special tokens and ids outside the vocabulary stand for none.

        Under a tokenizer that normalises (Qwen3's: NFC) these are the normalised text's.
        """
        return b"".join(self._bytes.get(index, b"") for index in ids)

    def to_text(self, ids: Sequence[int]) -> str:
        """The text that token ids stand for; bytes that are no UTF-8 come back as U+FFFD."""
        return self.to_bytes(ids).decode("utf-8", "replace")


def with_added_tokens(tokenizer_json: str, contents: Sequence[str]) -> str:
    """A ``tokenizer.json`` with plain tokens added after the last id, as transformers' ``add_tokens`` does; a
    token that is there keeps its id.
    """
    try:
        settings = json.loads(tokenizer_json)
        added = settings["added_tokens"]
        known = {token["content"] for token in added}
        following = 1 + max([token["id"] for token in added] + list(settings["model"]["vocab"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"tokenizer.json cannot be read as a tokenizer: {error!r}") from error
    for content in contents:
        if content not in known:
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
            added.append({"id": following, "content": content, **flags})
            following += 1
    return json.dumps(settings, ensure_ascii=False)


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
