"""What became of rows: counted, and the rejected ones kept as they were, with the reason, for their owner to mend.

`<out>/rejected.jsonl` holds one line per rejected row: `where`, `reason`, `hint` if there is one, and the `row`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luban.errors import LubanError
from luban.folder import write_text

REJECTED_FILE = "rejected.jsonl"

Reject = Callable[[LubanError, Any], None]
"""Takes what is wrong with a row, and the row as it was."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was not used; `str` is its place and the reason on one line."""

    error: LubanError
    row: Any
    """As it was: its value, or its text where that cannot be read."""

    def __str__(self) -> str:
        # What is wrong may be half of a surrogate pair, which no terminal or file takes.
        return str(self.error).partition("\n")[0].encode("utf-8", "backslashreplace").decode("utf-8")

    def to_json(self) -> str:
        """Its line in the reject file."""
        facts = {"where": str(self.error.where), "reason": self.error.what}
        hint = {"hint": self.error.hint} if self.error.hint else {}
        # Escaped, so that half of a surrogate pair (often the very fault) can be written too.
        return json.dumps({**facts, **hint, "row": self.row})


@dataclass(kw_only=True)
class Tally:
    """Of all rows: `rows = kept + len(rejected)`; truncated ones are kept."""

    rows: int = 0
    kept: int = 0
    truncated: int = 0
    rejected: list[Rejected] = field(default_factory=list)

    def reject(self, error: LubanError, row: Any) -> None:
        self.rows += 1
        self.rejected.append(Rejected(error, row))

    def keep(self, *, truncated: bool = False) -> None:
        self.rows += 1
        self.kept += 1
        self.truncated += truncated


def raise_rejected(error: LubanError, _row: Any) -> None:
    """The `Reject` of a caller who takes no wrong row: the first one is an error."""
    raise error


def write_rejected(out: Path, tally: Tally) -> None:
    """Write `<out>/rejected.jsonl`, or remove an older one where nothing was rejected."""
    path = out / REJECTED_FILE
    if tally.rejected:
        write_text(path, "".join(f"{rejected.to_json()}\n" for rejected in tally.rejected))
    else:
        path.unlink(missing_ok=True)
