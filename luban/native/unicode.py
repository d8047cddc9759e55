"""Python's Unicode data as C++ tables, so that a kernel and `str` agree on what a letter is."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence

BLOCK = 256
LETTER, DIGIT, SPACE, PUNCTUATION, SYMBOL, IDEOGRAPH, UPPER, MARK = (1 << bit for bit in range(8))
"""Bits of a character's class; `unicode.hpp` has the same."""
IDEOGRAPHS = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3134F))
"""Han, Hiragana and Katakana: written without spaces, so each character counts as a word."""
_BY_CATEGORY = {"L": LETTER, "N": DIGIT, "P": PUNCTUATION, "S": SYMBOL, "M": MARK}


def tables_header() -> str:
    """The text of `unicode_tables.hpp`: two-level tables of each code point's class and lower case."""
    classes = [_class(code) for code in range(sys.maxunicode + 1)]
    lower = [_lower(code) for code in range(sys.maxunicode + 1)]
    lines = ["// Generated from Python's unicodedata.", "#pragma once", "#include <cstdint>"]
    lines += [f"// Unicode {unicodedata.unidata_version}"]
    lines += _table("class", "uint8_t", classes) + _table("lower", "int32_t", lower)
    return "\n".join(lines) + "\n"


def _class(code: int) -> int:
    character = chr(code)
    bits = _BY_CATEGORY.get(unicodedata.category(character)[0], 0)
    bits |= SPACE if character.isspace() else 0
    bits |= UPPER if character.isupper() else 0
    return bits | (IDEOGRAPH if bits & LETTER and any(a <= code <= b for a, b in IDEOGRAPHS) else 0)


def _lower(code: int) -> int:
    """What to add for the lower case; 0 where that is more than one character."""
    folded = chr(code).lower()
    return ord(folded) - code if len(folded) == 1 else 0


def _table(name: str, kind: str, values: Sequence[int]) -> list[str]:
    """`NAME_block[code >> 8]` says which block of `NAME_value` holds the code point."""
    blocks: dict[tuple[int, ...], int] = {}
    index = []
    for start in range(0, len(values), BLOCK):
        block = tuple(values[start : start + BLOCK])
        index.append(blocks.setdefault(block, len(blocks)))
    flat = [value for block in blocks for value in block]
    return [
        f"static const uint16_t {name}_block[] = {{{','.join(map(str, index))}}};",
        f"static const {kind} {name}_value[] = {{{','.join(map(str, flat))}}};",
    ]
