"""A document: the unit between a source and the token shards, stored as JSON lines.

Every documents folder holds `*.jsonl` files of these (plus `run.json`); every source yields them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from luban.errors import DataError, nearest


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text with where it came from. `id` is unique within a run; `meta` holds url, date, language, ..."""

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
    def from_json(cls, line: str, *, where: object, name: str = "", text_key: str = "text") -> Document:
        """Read what `to_json` wrote, or any JSON object with its text under `text_key`.

        `name` becomes the id of a row that has none. Raises DataError naming `where` (file:line) and what is
        wrong: JSON, no text, or half of a surrogate pair, which no UTF-8 file can hold.
        """
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"not valid JSON: {error.msg} at column {error.colno}", where=where) from None
        except (ValueError, RecursionError) as error:  # a number of 5000 digits; 1000 nested brackets
            raise DataError(f"not readable as JSON: {error}", where=where) from None
        if "\\ud" in line.lower():
            _reject_lone_surrogate(row, where)
        return cls.from_row(row, where=where, name=name, text_key=text_key)

    @classmethod
    def from_row(cls, row: Any, *, where: object, name: str = "", text_key: str = "text") -> Document:
        """The document in a parsed JSON value; raises DataError naming `where` if there is no text in it."""
        if not isinstance(row, dict):
            raise DataError(f"a row is a JSON object, not {type(row).__name__}", where=where)
        if not isinstance(row.get(text_key), str):
            found = f"'{text_key}' is {row[text_key]!r:.40}" if text_key in row else _keys(row, text_key)
            raise DataError(f"a document row needs a string '{text_key}'; {found}", where=where)
        meta = {key: value for key, value in row.items() if key not in ("id", "source", text_key)}
        return cls(
            id=_word(row.get("id")) or name,
            text=row[text_key],
            source=_word(row.get("source")) or name.rpartition(":")[0],
            meta=meta,
        )


def _word(value: Any) -> str:
    return "" if value is None else str(value)


def _keys(row: dict[str, Any], text_key: str) -> str:
    return nearest(text_key, row) if row else "the row is empty"


def _reject_lone_surrogate(row: Any, where: object) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise DataError(f"half of a surrogate pair ({half}) is not text", where=where) from None
