"""A document: the unit between a source and the token shards, stored as JSON lines.

Every documents folder holds `*.jsonl` files of these (plus `run.json`); every source yields them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from luban.errors import DataError, nearest

DEEPEST = 100
"""Levels of lists and objects in a row; more are no data, and no JSON writer could put them down again."""


class RecordError(DataError):
    """A file, record or row that cannot become a document; `reason` is the code it is counted under."""

    def __init__(self, what: str, *, reason: str, where: object = None, hint: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Its way out of a worker process."""
        facts = {"reason": self.reason, "where": self.where, "hint": self.hint}
        return functools.partial(RecordError, **facts), (self.what,)


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text with where it came from. `id` is unique within a run; `source` is the file it stood in.

    `meta` holds what else is known, JSON values only, under the field's usual names. Standard keys: `url`;
    `date` (ISO 8601: of publication where that is known, else when it was fetched; `fetched` where both are);
    `language` (of the prose, ISO 639-1 where there is one); `license` (SPDX where known, else its address);
    `offset` (where the record begins in its file: bytes, before decompression for WARC, after it for others).
    Readers also know `title`, `content_type` (`text/html` marks raw HTML that an extraction step has to
    follow), `encoding` (when it was not UTF-8) and `programming_language`.
    """

    id: str
    text: str
    source: str
    meta: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One JSON line; `meta` entries stand beside the named fields."""
        return json.dumps(
            {"id": self.id, "text": self.text, "source": self.source, **self.meta}, ensure_ascii=False
        )

    @classmethod
    def from_json(
        cls, line: str | bytes, *, where: object, name: str = "", text_key: str = "text"
    ) -> Document:
        """Read what `to_json` wrote, or any JSON object with its text under `text_key`; bytes are UTF-8.

        `name` becomes the id of a row that has none. Raises RecordError naming `where` (file:line) and what is
        wrong: bytes, JSON, no text, or half of a surrogate pair, which no UTF-8 file can hold.
        """
        return cls.from_row(parse(line, where), where=where, name=name, text_key=text_key)

    @classmethod
    def from_row(cls, row: Any, *, where: object, name: str = "", text_key: str = "text") -> Document:
        """The document in a parsed JSON value; raises RecordError naming `where` if there is no text in it."""
        if not isinstance(row, dict):
            raise RecordError(
                f"a row is a JSON object, not {type(row).__name__}", reason="not_an_object", where=where
            )
        text = row.pop(text_key, None)
        if not isinstance(text, str):
            found = f"'{text_key}' is {text!r:.40}" if text is not None else _keys(row, text_key)
            raise RecordError(
                f"a document row needs a string '{text_key}'; {found}", reason="no_text", where=where
            )
        own, source = row.pop("id", None), row.pop("source", None)
        if "text" in row:  # not the text that was asked for, and no meta entry may hide that one
            row["other_text"] = row.pop("text")
        return cls(
            id=_word(own) or name,
            text=text,
            source=_word(source) or name.rpartition(":")[0],
            meta=row,
        )


def parse(line: str | bytes, where: object) -> Any:
    """The JSON value in a line, the same as `json.loads` gives, mostly several times as fast.

    Raises RecordError as `Document.from_json` does.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:  # the careful parser says what is wrong, or takes it (NaN)
        return _parse_carefully(line, where)
    # orjson makes floats of integers of more than 64 bits; only the careful parser keeps their digits.
    return _parse_carefully(line, where) if _has_rounded([value], where) else value


def decode(raw: bytes, where: object) -> str:
    """`raw` as UTF-8; raises RecordError naming the first wrong byte and where it stands."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{raw[error.start]:02x} at column {error.start + 1} is not UTF-8"
        hint = "convert the file, e.g. `iconv -f GB18030 -t UTF-8` (Chinese) or `-f CP1252` (Western)"
        raise RecordError(wrong, reason="bad_encoding", where=where, hint=hint) from None


def _has_rounded(values: Iterable[Any], where: object, depth: int = 0) -> bool:
    """Whether a float is so large that it may have been an integer; raises RecordError below DEEPEST levels."""
    if depth > DEEPEST:
        raise RecordError(f"nested more than {DEEPEST} levels deep", reason="too_deep", where=where)
    for value in values:
        kind = type(value)
        if kind is float:
            if not -(2.0**63) < value < 2.0**63:
                return True
        elif kind is dict or kind is list:
            inner = value.values() if kind is dict else value
            if _has_rounded(inner, where, depth + 1):
                return True
    return False


def _parse_carefully(line: str | bytes, where: object) -> Any:
    text = line if isinstance(line, str) else decode(line, where)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        what = f"not valid JSON: {error.msg} at column {error.colno}"
        raise RecordError(what, reason="bad_json", where=where) from None
    except RecursionError:
        raise RecordError(f"nested more than {DEEPEST} levels deep", reason="too_deep", where=where) from None
    except ValueError as error:  # a number of 5000 digits
        raise RecordError(f"not readable as JSON: {error}", reason="bad_json", where=where) from None
    if "\\ud" in text.lower():
        _reject_lone_surrogate(value, where)
    _has_rounded([value], where)
    return value


def _word(value: Any) -> str:
    return "" if value is None else str(value)


def _keys(row: dict[str, Any], text_key: str) -> str:
    return nearest(text_key, row) if row else "the row is empty"


def _reject_lone_surrogate(row: Any, where: object) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise RecordError(
            f"half of a surrogate pair ({half}) is not text", reason="lone_surrogate", where=where
        ) from None
