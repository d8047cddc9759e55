"""Light cleaning: each step is a pure function of a text, known by its reason code.

`STEPS` change a text without changing what it says; `drop_reason` and `Duplicates` say which documents go.
Every change and drop is counted under its code, so that nothing disappears unseen.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable

NEWLINES = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# Zero-width joiner and non-joiner (U+200D, U+200C) stay: emoji, Persian and Indic scripts need them.
INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u180e\u200b\u2060\ufeff]")
BLANK_LINES = re.compile("\n{3,}")


def unify_newlines(text: str) -> str:
    """`newline`: CRLF, CR, form feed and Unicode's own line ends become `\\n`."""
    return NEWLINES.sub("\n", text)


def remove_invisible(text: str) -> str:
    """`invisible`: NUL and other control characters, zero-width spaces and stray BOMs are removed."""
    return INVISIBLE.sub("", text)


def compose(text: str) -> str:
    """`nfc`: one spelling per character: `e` + accent becomes `é` (Unicode NFC)."""
    return unicodedata.normalize("NFC", text)


def trim_lines(text: str) -> str:
    """`trailing_space`: white space at the ends of lines is removed; indentation stays."""
    return "\n".join(line.rstrip() for line in text.split("\n"))


def squeeze_blank_lines(text: str) -> str:
    """`blank_lines`: more than one blank line in a row becomes one; none stays at the text's ends."""
    return BLANK_LINES.sub("\n\n", text).strip("\n")


STEPS: dict[str, Callable[[str], str]] = {
    "newline": unify_newlines,
    "invisible": remove_invisible,
    "nfc": compose,  # after `invisible`, which may bring a letter and its accent together
    "trailing_space": trim_lines,
    "blank_lines": squeeze_blank_lines,
}


def clean(text: str) -> tuple[str, list[str]]:
    """The cleaned text, and the codes of the steps that changed it. Cleaning twice changes nothing more."""
    changed: list[str] = []
    for code, step in STEPS.items():
        cleaned = step(text)
        if cleaned != text:
            changed.append(code)
            text = cleaned
    return text, changed


def drop_reason(text: str, *, min_chars: int) -> str | None:
    """`empty` or `short` (under `min_chars` characters) for a cleaned text that goes; None if it stays."""
    if not text:
        return "empty"
    return "short" if len(text) < min_chars else None


class Duplicates:
    """`duplicate`: remembers every text by a 16-byte hash and knows one it has seen before."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def seen(self, text: str) -> bool:
        """Whether this exact text came before; from now on it did."""
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
        if digest in self._seen:
            return True
        self._seen.add(digest)
        return False
