"""A format that a regular expression describes: the whole answer, without white space around it, must match.

The row's author writes the expression; one that backtracks without end hangs the run, so keep it plain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from luban.errors import DataError


def check(row: Mapping[str, Any]) -> None:
    """Raise DataError unless `regex` is a regular expression."""
    pattern = row.get("regex")
    if not isinstance(pattern, str):
        raise DataError("the row has no 'regex' to match")
    try:
        re.compile(pattern)
    except re.error as error:
        raise DataError(f"'{pattern}' is no regular expression: {error}") from None


def score(row: Mapping[str, Any], answer: str) -> float:
    """1.0 if the whole answer matches, else 0.0; a dot matches a new line too."""
    return float(re.fullmatch(row["regex"], answer.strip(), re.DOTALL) is not None)
