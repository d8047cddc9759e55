"""Answers that must call a tool: the form of a call in each format, with arguments that keep to the tool's schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luban.errors import PromptError, nearest
from luban.inference.constrain import BLANKS, Constraint, check_schema
from luban.inference.tools import Announced, Tagged, parser_of

Tool = Mapping[str, Any]
"""As in the OpenAI API: `{"type": "function", "function": {"name", "description", "parameters"}}`."""


def must_call(
    tools: Sequence[Tool],
    format_name: str,
    *,
    special_tokens: Mapping[str, int],
    name: str | None = None,
    several: bool = True,
) -> Constraint:
    """The form of an answer that calls one of `tools`, or the one called `name`; `several` times if it likes.

    Marks that are among `special_tokens` are written as those. Raises PromptError for an unknown name or format, and
    for a malformed schema.
    """
    parser_of(format_name)
    functions = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    if not functions:
        raise PromptError("a call is asked for and there is no tool", where="tool_choice")
    if name is not None and name not in functions:
        raise PromptError(f"no tool is called '{name}'; {nearest(name, functions)}", where="tool_choice")
    asked = functions if name is None else {name: functions[name]}
    start = list(_start(format_name, special_tokens, several=several))
    return Constraint(kind="grammar", value="\n".join([*start, *_calls(asked, format_name)]))


def _start(format_name: str, special_tokens: Mapping[str, int], *, several: bool) -> Iterator[str]:
    """What stands around calls, as lines of a grammar."""

    def mark(text: str) -> str:
        return f"<[{special_tokens[text]}]>" if text in special_tokens else json.dumps(text)

    if format_name == "mistral":
        more = ' (", " call)*' if several else ""
        yield f'start: {mark(Announced.MARK)} "[" call{more} "]"'
    elif format_name == "hermes":
        more = r' ("\n" tagged)*' if several else ""
        yield f"start: tagged{more}"
        yield rf'tagged: {mark(Tagged.OPEN)} "\n" call "\n" {mark(Tagged.CLOSE)}'
    else:
        more = ' ("; " call)*' if several else ""
        yield f"start: call{more}"


def _calls(functions: Mapping[str, Any], format_name: str) -> Iterator[str]:
    """Each function's call. Its arguments are a schema of their own, so that its references stay what they are."""
    key = "parameters" if format_name == "llama3" else "arguments"
    yield "call: " + " | ".join(f"call{number}" for number in range(len(functions)))
    for number, (name, parameters) in enumerate(functions.items()):
        beginning = f'{{"name": {json.dumps(name)}, "{key}": '
        yield f'call{number}: {json.dumps(beginning)} arguments{number} "}}"'
        yield f"arguments{number}: %json {json.dumps(_schema(name, parameters))}"


def _schema(name: str, parameters: Any) -> dict[str, Any]:
    """The schema of a function's arguments, which are an object."""
    where = f"tools.{name}.parameters"
    schema = {} if parameters is None else parameters
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise PromptError("arguments are described by a schema of type object", where=where)
    check_schema(schema, where=where)
    return schema | {"type": "object", "x-guidance": {"whitespace_pattern": BLANKS}}
