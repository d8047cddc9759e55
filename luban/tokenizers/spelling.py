"""How one token is told to people and programs: its text, or its bytes where it is a part of a character."""

from __future__ import annotations

import functools
import re

from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.stream import BROKEN

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece spells a byte that is no character."""


class Spelling:
    """The texts of a vocabulary's tokens, each as it stands inside a sentence."""

    def __init__(self, tokenizer: FileTokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces = {number: piece for piece, number in tokenizer.vocabulary().items()}

    def text(self, token: int) -> str:
        r"""The token's text; a part of a character as OpenAI tells it, `bytes:\xe9\xb2`."""
        text = self._text(token)
        if BROKEN not in text:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.bytes(token))

    def bytes(self, token: int) -> list[int]:
        """The token's bytes in UTF-8."""
        text, piece = self._text(token), self._pieces.get(token, "")
        if BROKEN not in text:
            return list(text.encode())
        if found := BYTE_PIECE.fullmatch(piece):
            return [int(found[1], 16)]
        table = _byte_of()
        known = all(sign in table for sign in piece)
        return [table[sign] for sign in piece] if known else list(text.encode())

    def _text(self, token: int) -> str:
        piece = self._pieces.get(token)
        if piece is None:
            return ""  # a row of the model without a token
        if piece in self._tokenizer.special_tokens:
            return piece
        if piece.startswith("▁"):  # decoding drops the space of a text's first token
            return piece.replace("▁", " ")
        return self._tokenizer.decode([token], skip_special=False)


@functools.cache
def _byte_of() -> dict[str, int]:
    """The byte that each sign of a byte-level vocabulary stands for.

    Source: Radford et al. 2019 (GPT-2), whose signs are the printable bytes and, for the others, code points from 256.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }
