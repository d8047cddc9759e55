"""Unit tests of generated Python: the answer's code, then each of the row's `tests`, in a process with limits.

The answer may be a fenced block among words. A test is a statement or several (`assert add(1, 2) == 3`) that passes
if it raises nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from luban.alignment.verify.sandbox import Limits, passed
from luban.errors import DataError

FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


def check(row: Mapping[str, Any]) -> None:
    """Raise DataError unless `tests` is a list of Python statements."""
    tests = row.get("tests")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise DataError("the row has no 'tests', a list of Python statements")
    for test in tests:
        try:
            ast.parse(test)
        except SyntaxError as error:
            raise DataError(f"the test '{test}' is not Python: {error.msg}") from None


def score(row: Mapping[str, Any], answer: str) -> float:
    """The share of the row's tests that the answer's code passes within the limits."""
    tests = row["tests"]
    return passed(code_in(answer), tests, Limits()) / len(tests)


def code_in(answer: str) -> str:
    """The answer's first fenced block, or all of it where it has none."""
    block = FENCED.search(answer)
    return block[1] if block else answer
