"""JSON that fits a schema: the part of JSON Schema (2020-12) that says what a value looks like.

The answer may stand in a fenced block. A keyword that is not here is refused before the run, not passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from luban.errors import DataError, nearest

FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: _is_number(value),
    "integer": lambda value: _is_number(value) and value == int(value),
}
SILENT = ("$schema", "$id", "$comment", "title", "description", "default", "examples")
"""Keywords that ask nothing of a value."""


def check(row: Mapping[str, Any]) -> None:
    """Raise DataError unless `schema` is a schema whose every keyword is known."""
    if "schema" not in row:
        raise DataError("the row has no 'schema' to fit")
    _check(row["schema"])


def score(row: Mapping[str, Any], answer: str) -> float:
    """1.0 if the answer is JSON, alone or in its first fenced block, and fits; else 0.0."""
    block = FENCED.search(answer)
    try:
        value = json.loads(block[1] if block else answer, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    return float(fits(value, row["schema"]))


def fits(value: Any, schema: Any) -> bool:
    """Whether `value` is what `schema` describes."""
    if isinstance(schema, bool):
        return schema
    return all(KEYWORDS[name](value, told, schema) for name, told in schema.items() if name not in SILENT)


def same(one: Any, other: Any) -> bool:
    """Equality as JSON has it: 1 is 1.0, but neither is true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


Keyword = Callable[[Any, Any, Mapping[str, Any]], bool]
"""From a value, what the keyword says, and the schema that it stands in."""


def _type(value: Any, told: str | Sequence[str], _schema: Any) -> bool:
    return any(TYPES[name](value) for name in ([told] if isinstance(told, str) else told))


def _properties(value: Any, told: Mapping[str, Any], _schema: Any) -> bool:
    return not isinstance(value, dict) or all(
        fits(value[name], inner) for name, inner in told.items() if name in value
    )


def _required(value: Any, told: Sequence[str], _schema: Any) -> bool:
    return not isinstance(value, dict) or all(name in value for name in told)


def _additional(value: Any, told: Any, schema: Mapping[str, Any]) -> bool:
    known = schema.get("properties", {})
    return not isinstance(value, dict) or all(
        fits(item, told) for name, item in value.items() if name not in known
    )


def _items(value: Any, told: Any, _schema: Any) -> bool:
    return not isinstance(value, list) or all(fits(item, told) for item in value)


def _unique(value: Any, told: bool, _schema: Any) -> bool:
    if not told or not isinstance(value, list):
        return True
    return not any(same(one, other) for at, one in enumerate(value) for other in value[:at])


def _bounded(kind: type | tuple[type, ...], within: Callable[[Any, Any], bool]) -> Keyword:
    """A keyword that bounds values of `kind` and lets others pass."""
    return lambda value, told, _: (
        isinstance(value, bool) or not isinstance(value, kind) or within(value, told)
    )


KEYWORDS: dict[str, Keyword] = {
    "type": _type,
    "enum": lambda value, told, _: any(same(value, one) for one in told),
    "const": lambda value, told, _: same(value, told),
    "properties": _properties,
    "required": _required,
    "additionalProperties": _additional,
    "items": _items,
    "uniqueItems": _unique,
    "minItems": _bounded(list, lambda value, told: len(value) >= told),
    "maxItems": _bounded(list, lambda value, told: len(value) <= told),
    "minLength": _bounded(str, lambda value, told: len(value) >= told),
    "maxLength": _bounded(str, lambda value, told: len(value) <= told),
    "pattern": _bounded(str, lambda value, told: re.search(told, value) is not None),
    "minimum": _bounded((int, float), lambda value, told: value >= told),
    "maximum": _bounded((int, float), lambda value, told: value <= told),
    "exclusiveMinimum": _bounded((int, float), lambda value, told: value > told),
    "exclusiveMaximum": _bounded((int, float), lambda value, told: value < told),
    "anyOf": lambda value, told, _: any(fits(value, one) for one in told),
    "allOf": lambda value, told, _: all(fits(value, one) for one in told),
    "oneOf": lambda value, told, _: sum(fits(value, one) for one in told) == 1,
    "not": lambda value, told, _: not fits(value, told),
}


def _check(schema: Any) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise DataError(f"a schema is an object, true or false, and this is {schema!r}")
    for name, told in schema.items():
        if name not in KEYWORDS and name not in SILENT:
            raise DataError(f"schema keyword '{name}' is not supported; {nearest(name, KEYWORDS)}")
        for inner in _schemas_in(name, told):
            _check(inner)
    told = schema.get("type", [])
    for kind in [told] if isinstance(told, str) else told:
        if kind not in TYPES:
            raise DataError(f"unknown type '{kind}' in the schema; {nearest(str(kind), TYPES)}")


def _schemas_in(name: str, told: Any) -> Sequence[Any]:
    """The schemas that stand below a keyword."""
    if name == "properties":
        return list(told.values())
    if name in ("items", "additionalProperties", "not"):
        return [told]
    return told if name in ("anyOf", "allOf", "oneOf") else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
