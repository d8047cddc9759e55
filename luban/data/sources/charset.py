"""Bytes of any encoding become text, or are refused: a wrong guess would poison the corpus unseen.

UTF-8 that decodes is UTF-8 whatever was declared (pages often declare wrongly). UTF-16 is told by its zero bytes.
Then come the declaration, UTF-8 with stray bytes of another encoding, and last a detector, if there is enough to
judge by.
"""

from __future__ import annotations

import codecs
import re

from luban.data.document import RecordError, decode
from luban.data.sources.opening import missing_extra

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{2,30})", re.IGNORECASE)
XML = re.compile(rb"\s*<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([\w.:-]{2,30})", re.IGNORECASE)
HIGH = re.compile(rb"[\x80-\xff]+")
WHOLE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
CONTROL = re.compile(r"[\0-\x08\x0e-\x1f]")
ENOUGH = 16
"""Bytes beyond ASCII from which on the detector is believed."""
ZEROS = 0.01
"""A larger share of NUL bytes, or of control characters, is no text."""


def declared_in(raw: bytes) -> str | None:
    """The encoding that an HTML or XML document declares in its first 1024 bytes (as browsers look for it)."""
    head = raw[:1024]
    found = XML.match(head) or META.search(head)
    return found[1].decode("ascii") if found else None


def to_text(raw: bytes, where: object, declared: str | None = None) -> tuple[str, str]:
    """The text of `raw` and its encoding's name, for a record at `where`.

    A stray byte in otherwise sound UTF-8 is read as Windows-1252 (`utf-8+windows-1252`). Raises RecordError:
    `bad_encoding` if nothing fits for certain, `binary` if it is no text.
    """
    for mark, name in MARKS:
        if raw.startswith(mark):
            return _strictly(raw.removeprefix(mark) if name == "utf-8" else raw, name, where)
    zeros = raw.count(0)
    if zeros > ZEROS * len(raw):
        return _wide(raw, zeros, where)
    if not (declared and b"\x1b" in raw):  # ISO-2022 looks like ASCII
        try:
            return raw.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            pass
    whole, high = _count_high(raw)
    named = _supported(declared)
    surely_utf8 = whole > 0.9 * high >= 0.9 * ENOUGH
    if named and not surely_utf8 and (text := _if_it_fits(raw, named)):
        return text, named
    if 2 * whole > high:
        return raw.decode("utf-8", "luban.windows-1252"), "utf-8+windows-1252"
    guess = _guess(raw, high, where)
    text = _if_it_fits(raw, guess) if guess else None
    if guess is None or text is None:
        raise _undecodable(raw, where)
    return text, guess


def _count_high(raw: bytes) -> tuple[int, int]:
    """Bytes beyond ASCII in well-formed UTF-8 sequences, and all of them."""
    return sum(map(len, WHOLE.findall(raw))), sum(map(len, HIGH.findall(raw)))


def _stray(error: UnicodeError) -> tuple[str, int]:
    """Read one byte that is not UTF-8 as Windows-1252; the five that it leaves undefined become U+FFFD."""
    assert isinstance(error, UnicodeDecodeError)
    byte = error.object[error.start : error.start + 1]
    return byte.decode("cp1252", "replace"), error.start + 1


codecs.register_error("luban.windows-1252", _stray)


def _wide(raw: bytes, zeros: int, where: object) -> tuple[str, str]:
    """UTF-16 without a mark: most of its zero bytes stand on one side."""
    odd = raw[1::2].count(0)
    side = "utf-16-le" if odd > 0.9 * zeros else "utf-16-be" if odd < 0.1 * zeros else None
    text = _if_it_fits(raw, side) if side else None
    if side is None or text is None or len(CONTROL.findall(text)) > ZEROS * len(text):
        raise RecordError(f"{zeros:,} of {len(raw):,} bytes are NUL: no text", reason="binary", where=where)
    return text, side


def _supported(declared: str | None) -> str | None:
    """The Python codec that browsers use for a declared name (ISO-8859-1 is Windows-1252), if there is one."""
    if not declared:
        return None
    name = _encodings(None).map_encoding_to_html5(declared, fallback_utf8=False)
    return _widest(name) if name and name != "utf-8" else None


def _guess(raw: bytes, high: int, where: object) -> str | None:
    """The detector's word where there is enough to judge by; mostly single high bytes among ASCII are Western."""
    if high >= ENOUGH:
        name = _encodings(where).detect_encoding(raw)
        if name and name != "utf-8":
            return _widest(name)
    runs = [len(run) for run in HIGH.findall(raw)]
    western = 2 * runs.count(1) > len(runs) and max(runs) <= 3
    return "cp1252" if western else None


def _widest(name: str) -> str:
    """GB2312 and GBK are parts of GB18030."""
    return "gb18030" if name.lower() in ("gbk", "gb2312") else name


def _if_it_fits(raw: bytes, name: str) -> str | None:
    try:
        text = raw.decode(name)
        text.encode("utf-8")
    except (UnicodeError, LookupError):
        return None
    return text


def _strictly(raw: bytes, name: str, where: object) -> tuple[str, str]:
    text = _if_it_fits(raw, name)
    if text is None:
        raise _undecodable(raw, where)
    return text, name


def _undecodable(raw: bytes, where: object) -> RecordError:
    """The error that names the first line with a byte that is not UTF-8."""
    for number, line in enumerate(raw.split(b"\n"), 1):
        try:
            decode(line, f"{where}:{number}")
        except RecordError as error:
            return error
    return RecordError("not text in any encoding tried", reason="bad_encoding", where=where)


def _encodings(where: object):
    try:
        from resiliparse.parse import encoding
    except ModuleNotFoundError:
        raise missing_extra("reading text that is not UTF-8", where) from None
    return encoding
