"""One spelling for the same text: Unicode form, line ends, invisible characters, and what a wrong decoding left.

Each rule is a function of a text, known by its reason code. A kernel first finds which of them may have anything
to do, so that text already in the one spelling costs a scan at memory speed.
"""

from __future__ import annotations

import functools
import html
import importlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luban.data.step import Batch, Edit, Outcome, Packed
from luban.errors import MachineError
from luban.native.build import load, pointer

NEWLINES = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# Zero-width joiner and non-joiner (U+200D, U+200C) stay: emoji, Persian and Indic scripts need them.
INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u180e\u200b\u2060\ufeff]")
ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});")
OTHER_THAN_ASCII = re.compile(r"[^\x00-\x7f]")
BLANK_LINES = re.compile("\n{3,}")
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code - 0xFEE0).isalnum()} | {
    0x3000: 0x20
}
# A lead byte's character, then one that a following byte of UTF-8 becomes in Latin-1 or Windows-1252.
UTF8_AS_LATIN = re.compile(
    "[\xc2-\xf4][\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2022\u2026\u2030\u2039"
    "\u203a\u20ac\u2122]"
)
# No language in Latin letters writes eight of its own in a row; GB18030 read as Latin-1 does.
GB_AS_LATIN = re.compile("(?:[\xa1-\xf7][\xa1-\xfe]){4,}")
GB_RUN = re.compile("(?:[\xa1-\xf7][\xa1-\xfe])+")
OFTEN = frozenset("的一是不了在有人我他这中大来上国个到说们为子和你地出道也时年，。、")
RARE = 12
"""Repaired GB18030 has one of the most frequent characters in so many, or it was something else."""


@dataclass(frozen=True, kw_only=True)
class Normalise:
    """Writes every text in one spelling; a second time changes nothing. Counts the documents each rule changed.

    `mojibake`, `entity`, `newline`, `invisible`, `nfc`, `full_width`, `trailing_space`, `blank_lines`: the rules
    below, in this order, again until none finds anything. None takes away what a reader would see.
    """

    mojibake: bool = True
    """Repair UTF-8 that was read as Windows-1252 or Latin-1, and GB18030 that was read as Latin-1."""
    entities: bool = True
    """Write leftover HTML entities (`&nbsp;`) as characters, in texts without a `<`."""
    full_width: bool = False
    """Write full-width Latin letters, digits and spaces in half width (for Chinese and Japanese)."""

    def __call__(self, batch: Batch) -> list[Outcome]:
        rules = _rules(self)
        marks = find_marks(batch.packed)
        return [
            normalise(document.text, rules) if mark else None
            for document, mark in zip(batch.documents, marks.tolist(), strict=True)
        ]


Rules = Mapping[str, Callable[[str], str]]


@functools.cache
def _rules(settings: Normalise) -> Rules:
    off = {
        "mojibake": not settings.mojibake,
        "entity": not settings.entities,
        "full_width": not settings.full_width,
    }
    return {code: rule for code, rule in RULES.items() if not off.get(code)}


def find_marks(texts: Packed) -> np.ndarray:
    """For each text a bit per rule (in the order of `RULES`) that may change it; a bit not set is a promise."""
    count = len(texts.starts)
    marks = np.zeros(count, np.uint8)
    load(Path(__file__).with_name("marks.cpp")).find_marks(
        *texts.arguments,
        pointer(marks, np.uint8),
    )
    return marks


def normalise(text: str, rules: Rules) -> Edit | None:
    """The changed text and which rules changed it; None for a text that is already in the one spelling."""
    changes: dict[str, int] = {}
    written, before, marked = text, None, _marked(text)
    while (
        written != before
    ):  # a rule may bring together what another one changes: `Ã`, a zero-width space, `©`
        before = written
        for code, rule in rules.items():
            changed = rule(written) if code in marked else written
            if changed != written:
                changes[code] = 1
                written, marked = changed, _marked(changed)
    return Edit(written, changes=changes) if changes else None


def _marked(text: str) -> set[str]:
    """The rules that may change the text; the others would only read it."""
    [mark] = find_marks(Packed.of([text])).tolist()
    return {code for bit, code in enumerate(RULES) if mark >> bit & 1}


def repair_mojibake(text: str) -> str:
    """`mojibake`: what was decoded as what it is not is decoded again.

    ftfy decides what is UTF-8 read as something else; it sees only lines in which some sequence looks like it, and
    only of a text half of whose characters beyond ASCII were wrong: a page that quotes `Ã©` to explain it stays.
    """
    if text.isascii():
        return text
    if GB_AS_LATIN.search(text) and _is_gb(GB_RUN.findall(text)):
        text = GB_RUN.sub(_decode_gb, text)  # first, for some of its pairs are UTF-8 too
    if UTF8_AS_LATIN.search(text):
        repaired = "\n".join(_repair_line(line) for line in text.split("\n"))
        shorter = len(text) - len(repaired)  # by one to three characters for each that was repaired
        if 2 * shorter >= len(OTHER_THAN_ASCII.findall(repaired)):
            return repaired
    return text


def _repair_line(line: str) -> str:
    return _ftfy().fix_encoding(line) if UTF8_AS_LATIN.search(line) else line


def _is_gb(runs: list[str]) -> bool:
    """Whether all runs of the text together read as Chinese."""
    written = "".join(runs).encode("latin-1").decode("gb18030", "replace")
    return sum(sign in OFTEN for sign in written) * RARE >= len(written)


def _decode_gb(run: re.Match[str]) -> str:
    try:
        return run.group().encode("latin-1").decode("gb18030")
    except UnicodeDecodeError:
        return run.group()


@functools.cache
def _ftfy() -> Any:
    try:
        return importlib.import_module("ftfy")
    except ImportError:
        raise MachineError(
            "repairing wrong decodings needs 'ftfy'", hint="pip install 'luban[data]'"
        ) from None


def unescape(text: str) -> str:
    """`entity`: `&nbsp;`, `&eacute;`, `&#233;` become characters; a text with a `<` is markup and stays."""
    while "&" in text and "<" not in text and (written := ENTITY.sub(_character, text)) != text:
        text = written
    return text


def _character(entity: re.Match[str]) -> str:
    return html.unescape(entity.group())


def unify_newlines(text: str) -> str:
    """`newline`: CRLF, CR, form feed and Unicode's own line ends become `\\n`."""
    return NEWLINES.sub("\n", text)


def remove_invisible(text: str) -> str:
    """`invisible`: NUL and other controls, soft hyphens, zero-width spaces and stray BOMs are removed."""
    return INVISIBLE.sub("", text)


def compose(text: str) -> str:
    """`nfc`: one spelling per character: `e` + accent becomes `é` (Unicode NFC)."""
    return unicodedata.normalize("NFC", text)


def narrow(text: str) -> str:
    """`full_width`: `Ａ１` becomes `A1`; full-width punctuation stays, for it is Chinese punctuation."""
    return text.translate(FULL_WIDTH)


def trim_lines(text: str) -> str:
    """`trailing_space`: white space at the ends of lines is removed; indentation stays."""
    return "\n".join(line.rstrip() for line in text.split("\n"))


def squeeze_blank_lines(text: str) -> str:
    """`blank_lines`: more than one blank line in a row becomes one; none stays at the text's ends."""
    return BLANK_LINES.sub("\n\n", text).strip("\n")


RULES: Rules = {
    "mojibake": repair_mojibake,  # before `newline`: U+0085 is a byte of many a character
    "entity": unescape,
    "newline": unify_newlines,
    "invisible": remove_invisible,
    "nfc": compose,  # after `invisible`, which may bring a letter and its accent together
    "full_width": narrow,
    "trailing_space": trim_lines,
    "blank_lines": squeeze_blank_lines,
}
