"""Rewards that a program can check: an answer is right or it is not, and nobody's taste is asked.

Each verifier is one file with `check`, which refuses a row that it could not judge answers by, and `score`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luban.alignment.verify import arithmetic, json_schema, python_tests, regex

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Verifier:
    """How answers to a row are judged by what its columns say."""

    check: Callable[[Row], None]
    """Raises DataError where the row lacks what is needed; `where` is left to who knows file and line."""
    score: Callable[[Row, str], float]
    """From 0, wrong, to 1, right."""
    summary: str


VERIFIERS = {
    "arithmetic": Verifier(
        arithmetic.check, arithmetic.score, "the last number equals the row's `answer`, exactly"
    ),
    "regex": Verifier(regex.check, regex.score, "the whole answer matches the row's `regex`"),
    "json": Verifier(json_schema.check, json_schema.score, "the answer is JSON that fits the row's `schema`"),
    "python": Verifier(
        python_tests.check, python_tests.score, "share of the row's `tests` that the answer's code passes"
    ),
}
"""By name, as a stage's `reward=verify:NAME` gives it."""
