"""Exact arithmetic: the last number of an answer against the value of the row's `answer`, as fractions.

`answer` may be a number or an expression (`3 * (4 + 5)`, `7/2`); no floating point comes near either.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from luban.errors import DataError

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?")
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
LARGEST_POWER = 64


def check(row: Mapping[str, Any]) -> None:
    """Raise DataError unless `answer` has a value."""
    if "answer" not in row:
        raise DataError("the row has no 'answer' to compare with")
    value(str(row["answer"]))


def score(row: Mapping[str, Any], answer: str) -> float:
    """1.0 if the last number of `answer` is the row's, to the last digit, else 0.0."""
    told = last_number(answer)
    return float(told is not None and told == value(str(row["answer"])))


def last_number(text: str) -> Fraction | None:
    """The last number in `text`: whole, decimal (thousands' commas allowed) or a fraction; None without one."""
    found = NUMBER.findall(text)
    return _number(found[-1]) if found else None


def value(expression: str) -> Fraction:
    """What a number or an expression of + - * / ** and brackets comes to; raises DataError where it has none."""
    try:
        return _value(ast.parse(expression.replace(",", "").strip(), mode="eval").body, expression)
    except SyntaxError:
        raise DataError(f"'{expression}' is no arithmetic") from None
    except ZeroDivisionError:
        raise DataError(f"'{expression}' divides by zero") from None


def _value(node: ast.AST, expression: str) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()):
            return Fraction(ast.get_source_segment(expression.replace(",", "").strip(), node) or "")
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, expression)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left, expression), _value(right, expression), expression)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(left, expression), _value(right, expression))
    raise DataError(f"'{expression}' is no arithmetic")


def _power(base: Fraction, exponent: Fraction, expression: str) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > LARGEST_POWER:
        raise DataError(f"'{expression}' has a power that is not a whole number up to {LARGEST_POWER}")
    return base**exponent.numerator


def _number(text: str) -> Fraction | None:
    whole, _, below = text.replace(",", "").partition("/")
    if below and not int(below):
        return None
    return Fraction(whole.strip()) / (int(below) if below else 1)
