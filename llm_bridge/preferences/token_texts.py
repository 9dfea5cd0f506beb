"""The text that each token of a response adds, also where a character is split over tokens."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

__all__ = ["completed_texts", "token_bytes"]


def completed_texts(pieces: Sequence[bytes]) -> list[str]:
    r"""Return the characters that end in each piece of UTF-8; in linear time.

    A character split over tokens goes to the one that completes it, the others have ``""``. Joined,
    the texts of `token_bytes` are the decoded ids, except that bytes which form no character may be
    another number of ``"�"``.

    Example:
        >>> completed_texts([b"caf", b"\xc3", b"\xa9"])
        ['caf', '', 'é']

    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [
        decoder.decode(piece, final=n == len(pieces)) for n, piece in enumerate(pieces, start=1)
    ]


def token_bytes(tokenizer: Any, ids: Sequence[int]) -> list[bytes]:
    """Return the bytes that each token adds, also of half a character, lost in decoding.

    Example:
        >>> from llm_bridge.models.cloned import letter_tokenizer
        >>> token_bytes(letter_tokenizer(4), [2, 0, 1])
        [b'c', b'a', b'b']

    """
    decode = partial(
        tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    byte_level = "ByteLevel" in repr(decoder) or hasattr(tokenizer, "byte_decoder")
    ids = [int(token) for token in ids]
    pieces: list[bytes] = []
    for n, name in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        if byte_level:
            name = name or ""  # a row of the head that the vocabulary has no name for
            written = all(letter in BYTES for letter in name)
            pieces.append(bytes(BYTES[letter] for letter in name) if written else name.encode())
        elif name and re.fullmatch("<0x[0-9A-F]{2}>", name) and decode([ids[n]]) != name:
            pieces.append(bytes([int(name[3:5], 16)]))
        else:  # decoded after its neighbour, since alone it may lose a space
            before = decode(ids[max(0, n - 1) : n])
            pieces.append(decode(ids[max(0, n - 1) : n + 1])[len(before) :].encode())
    return pieces


def _byte_letters() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for (GPT-2): its own where
    it is printed.
    """
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {
        chr(256 + n): byte for n, byte in enumerate(others)
    }


BYTES = _byte_letters()
