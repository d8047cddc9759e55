"""A document: the unit between a source and the token shards, stored as JSON lines.

Every documents folder holds `*.jsonl` files of these (plus `run.json`); every source yields them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from luban.errors import DataError


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
    def from_json(cls, line: str, *, where: object) -> Document:
        """Read what `to_json` wrote; raises DataError naming `where` (file:line) and what is wrong."""
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"not valid JSON: {error.msg} at column {error.colno}", where=where) from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise DataError("a document row needs a string 'text'", where=where)
        named = {name: str(row.pop(name, "")) for name in ("id", "source")}
        return cls(text=row.pop("text"), meta=row, **named)
