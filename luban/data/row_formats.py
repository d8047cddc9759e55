"""The shapes in which people keep conversations, each read into one: `Row`.

A row is recognised by its keys, in this order (further keys are left alone):

    messages        {"messages": [{"role", "content"}...], "tools"?: [...]}, or the bare list of messages
    sharegpt        {"conversations": [{"from", "value"}...], "system"?, "tools"?}
    alpaca          {"instruction", "output", "input"?, "system"?, "history"?: [[question, answer]...]}
    prompt          {"prompt", "completion"}: both texts, or both lists of messages
    pair            {"source", "target"}: a text and its translation, or whatever it is turned into
    text            {"text"}

Rows with other keys are read through `columns`, which names theirs by ours: {"prompt": "question"}. In tables,
where a cell is a text, lists (messages, conversations, history, tools) may be written as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from luban.errors import ConfigError, DataError, nearest

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
OPTIONAL = ("input", "system", "history", "tools")
"""Keys that rows of a file may have or lack."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A conversation (`messages`), or plain text: a `completion` to learn after a `prompt` that is given."""

    where: str
    """File and line, for messages about it."""
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] | None = None
    given_answers: int = 0
    """Assistant turns at the start that belong to the prompt and are never learnt."""
    prompt: str = ""
    completion: str = ""
    format: str = ""
    """The name it was recognised as."""
    raw: Any = field(default=None, repr=False, compare=False)
    """The row as it was, for who rejects it."""


def to_row(raw: Any, *, where: str, columns: Mapping[str, str] | None = None) -> Row:
    """The row in a JSON value; `columns` are the row's own keys by ours.

    Raises DataError naming `where`, the entry that is wrong and what is expected.
    """
    value = {"messages": raw} if isinstance(raw, list) else raw
    if not isinstance(value, dict):
        raise DataError(f"a row is an object or a list of messages, not {_name(raw)}", where=where)
    value = _renamed(value, columns or {}, where)
    for name, (keys, read) in READERS.items():
        if _meant(keys, columns or {}) and all(value.get(key) is not None for key in keys):
            return replace(read(value, where), format=name, raw=raw)
    accepted = ", ".join("+".join(keys) for keys, _ in READERS.values())
    found = ", ".join(map(str, value)) or "none"
    hint = f"rows with {accepted}; or say what yours are called: columns.prompt=question"
    raise DataError(f"unknown row format with keys: {found}", where=where, hint=hint)


def check_columns(columns: Mapping[str, str]) -> None:
    """Raise ConfigError for a name that no row format has."""
    known = {key for keys, _ in READERS.values() for key in keys} | {*OPTIONAL}
    for name in columns:
        if name not in known:
            what = f"no row format has '{name}'; {nearest(name, known)}"
            raise ConfigError(what, where="setting 'columns'", hint="columns.OURS=THEIRS")


def _renamed(raw: dict[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    """The row under our keys; what it has under ours already stays."""
    ours = {key: value for key, value in raw.items() if key not in columns.values()}
    for name, theirs in columns.items():
        if raw.get(theirs) is not None:
            ours[name] = raw[theirs]
        elif name not in OPTIONAL and raw.get(name) is None:
            what = f"there is no '{theirs}' for '{name}'; {nearest(theirs, map(str, raw))}"
            raise DataError(what, where=where)
    return ours


def _meant(keys: tuple[str, ...], columns: Mapping[str, str]) -> bool:
    """Whether a format can be the one that `columns` speaks of: it has a key that they name, if they name any."""
    named = {name for name in columns if name not in OPTIONAL}
    return not named or bool(named & {*keys})


def _read_messages(raw: dict[str, Any], where: str) -> Row:
    return Row(where=where, messages=_messages(raw["messages"], where), tools=_tools(raw, where))


def _read_sharegpt(raw: dict[str, Any], where: str) -> Row:
    turns = _system(raw)
    for number, turn in enumerate(_list(raw["conversations"], "conversations", where), 1):
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            raise DataError(f"turn {number} needs 'from' and 'value'", where=where)
        role = SHAREGPT_ROLES.get(str(turn["from"]))
        if role is None:
            choice = nearest(str(turn["from"]), SHAREGPT_ROLES)
            raise DataError(f"turn {number} is from '{turn['from']}'; {choice}", where=where)
        if turn["from"] == "function_call":
            turns.append({"role": role, "content": "", "tool_calls": [{"function": turn["value"]}]})
        else:
            turns.append({"role": role, "content": turn["value"]})
    return Row(where=where, messages=_messages(turns, where), tools=_tools(raw, where))


def _read_alpaca(raw: dict[str, Any], where: str) -> Row:
    turns = _system(raw)
    for pair in _list(raw.get("history") or [], "history", where):
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError("'history' holds [question, answer] pairs", where=where)
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    asked = [_text(raw, key, where) for key in ("instruction", "input") if raw.get(key)]
    turns.append({"role": "user", "content": "\n\n".join(asked)})
    turns.append({"role": "assistant", "content": _text(raw, "output", where)})
    return Row(where=where, messages=_messages(turns, where))


def _read_prompt(raw: dict[str, Any], where: str) -> Row:
    prompt, completion = raw["prompt"], raw["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return Row(where=where, prompt=prompt, completion=completion)
    if isinstance(prompt, list) and isinstance(completion, list):
        given = sum(isinstance(turn, dict) and turn.get("role") == "assistant" for turn in prompt)
        messages = _messages([*prompt, *completion], where)
        return Row(where=where, messages=messages, tools=_tools(raw, where), given_answers=given)
    raise DataError("'prompt' and 'completion' must be two texts or two lists of messages", where=where)


def _read_pair(raw: dict[str, Any], where: str) -> Row:
    return Row(where=where, prompt=_text(raw, "source", where), completion=_text(raw, "target", where))


def _read_text(raw: dict[str, Any], where: str) -> Row:
    return Row(where=where, completion=_text(raw, "text", where))


READERS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any], str], Row]]] = {
    "messages": (("messages",), _read_messages),
    "sharegpt": (("conversations",), _read_sharegpt),
    "alpaca": (("instruction", "output"), _read_alpaca),
    "prompt": (("prompt", "completion"), _read_prompt),
    "pair": (("source", "target"), _read_pair),
    "text": (("text",), _read_text),
}


def _messages(turns: Any, where: str) -> tuple[dict[str, Any], ...]:
    checked = tuple(
        _message(turn, number, where) for number, turn in enumerate(_list(turns, "messages", where), 1)
    )
    if not checked:
        raise DataError("the conversation is empty", where=where)
    return checked


def _message(turn: Any, number: int, where: str) -> dict[str, Any]:
    if not isinstance(turn, dict) or "role" not in turn:
        raise DataError(f"message {number} needs 'role' and 'content'", where=where)
    role, calls = turn["role"], turn.get("tool_calls")
    if role not in ROLES:
        raise DataError(
            f"message {number} has the role {role!r}; choose from: {', '.join(ROLES)}", where=where
        )
    content = _content(turn.get("content"), number, where)
    if content is None and not (role == "assistant" and calls):
        raise DataError(f"message {number} has no 'content'", where=where)
    # A null entry means that there is none, and templates that ask `is defined` must not see it.
    message = {key: value for key, value in turn.items() if value is not None} | {"content": content or ""}
    if calls:
        message["tool_calls"] = [_call(call, number, where) for call in _list(calls, "tool_calls", where)]
    return message


def _content(content: Any, number: int, where: str) -> str | None:
    """A message's text; a list of text parts, as the OpenAI API has it, is joined."""
    if content is None or isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    if any(not isinstance(text, str) for text in texts):
        raise DataError(f"message {number}: 'content' must be text, not {_name(content)}", where=where)
    return "".join(text for text in texts if text)


def _call(call: Any, number: int, where: str) -> dict[str, Any]:
    """A tool call whose arguments are an object; the OpenAI API and sharegpt write JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else None
    function = _parsed(function, f"message {number}: a tool call", where)
    if not isinstance(function, dict) or "name" not in function:
        raise DataError(f"message {number}: a tool call needs a 'name'", where=where)
    arguments = _parsed(function.get("arguments") or {}, f"message {number}: 'arguments'", where)
    return {**call, "type": "function", "function": {**function, "arguments": arguments}}


def _tools(raw: Mapping[str, Any], where: str) -> tuple[dict[str, Any], ...] | None:
    if not raw.get("tools"):
        return None
    return tuple(_list(_parsed(raw["tools"], "'tools'", where), "tools", where))


def _system(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "system", "content": raw["system"]}] if raw.get("system") else []


def _parsed(value: Any, name: str, where: str) -> Any:
    """`value`, or what its JSON text says."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise DataError(f"{name} is not valid JSON: {error.msg}", where=where) from None


def _list(value: Any, name: str, where: str) -> Sequence[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed(value, f"'{name}'", where)
    if not isinstance(value, list):
        raise DataError(f"'{name}' must be a list, not {_name(value)}", where=where)
    return value


def _text(raw: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(raw[key], str):
        raise DataError(f"'{key}' must be text, not {_name(raw[key])}", where=where)
    return raw[key]


def _name(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(
        type(value), repr(value)
    )
