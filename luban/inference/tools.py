"""Calls of tools, read out of an answer's text as it comes; `tool_choice.py` makes a model write them.

Each family of models writes calls in its own way, which its chat template shows; `format_of` finds out which. A
parser takes pieces of text and gives back what is now certain: content, and whole `Call`s. Text that looks like a
call and is none is content, to the letter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from luban.errors import PromptError, nearest

DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Call:
    """A tool that the model wants to be called."""

    name: str
    arguments: str
    """A JSON object, as text."""


Said = str | Call


class ToolParser(Protocol):
    """Reads one answer."""

    def push(self, piece: str) -> list[Said]:
        """What is certain with this next piece of the text, in its order; never an empty text."""
        ...

    def finish(self) -> list[Said]:
        """What was held back, now that no more text comes."""
        ...


class Tagged:
    """Each call is a JSON object between two tags, content around them: Hermes, Qwen 2.5 and 3.

    White space next to a call belongs to it.
    """

    OPEN, CLOSE = "<tool_call>", "</tool_call>"

    def __init__(self) -> None:
        self._text, self._called = "", False

    def push(self, piece: str) -> list[Said]:
        """See `ToolParser`."""
        self._text += piece
        said: list[Said] = []
        while (at := self._text.find(self.OPEN)) >= 0:
            before = self._text[:at].rstrip()
            said += self._content(before)
            self._text = self._text[len(before) :]
            body, closed, behind = self._text.partition(self.CLOSE)
            if not closed:
                return said
            calls = calls_in(body.lstrip().removeprefix(self.OPEN))
            said += calls or self._content(body + closed)
            self._text, self._called = behind, bool(calls)
        certain = len(self._text) - undecided(self._text, self.OPEN)
        said += self._content(self._text[:certain])
        self._text = self._text[certain:]
        return said

    def finish(self) -> list[Said]:
        """See `ToolParser`; a call whose end tag was never written counts if it is whole."""
        text, self._text = self._text, ""
        begun = text.lstrip().startswith(self.OPEN)
        calls = calls_in(text.lstrip().removeprefix(self.OPEN)) if begun else []
        return calls or self._content(text)

    def _content(self, text: str) -> list[Said]:
        text = text.lstrip() if self._called else text
        self._called = self._called and not text
        return [text] if text else []


class Announced:
    """All behind a mark is calls: a list of JSON objects, or names each with its arguments (Mistral)."""

    MARK, ARGUMENTS = "[TOOL_CALLS]", "[ARGS]"

    def __init__(self) -> None:
        self._text = ""

    def push(self, piece: str) -> list[Said]:
        """See `ToolParser`; calls come at the end."""
        self._text += piece
        if self.MARK in self._text:
            content = self._text[: self._text.index(self.MARK)].rstrip()
            self._text = self._text[len(content) :]
            return [content] if content else []
        certain = len(self._text) - undecided(self._text, self.MARK)
        content, self._text = self._text[:certain], self._text[certain:]
        return [content] if content else []

    def finish(self) -> list[Said]:
        """See `ToolParser`."""
        text, self._text = self._text, ""
        if not text.lstrip().startswith(self.MARK):
            return [text] if text else []
        calls = calls_in(text.lstrip().removeprefix(self.MARK)) or self._named(text)
        return list(calls) or [text]

    def _named(self, text: str) -> list[Said]:
        """`[TOOL_CALLS]name[ARGS]{...}`, repeated; the second mark is not always written."""
        calls: list[Said] = []
        for part in text.split(self.MARK)[1:]:
            name, brace, rest = part.replace(self.ARGUMENTS, "", 1).partition("{")
            arguments, behind = _value(brace + rest)
            if not name.strip() or not isinstance(arguments, dict) or behind.strip():
                return []
            calls.append(Call(name.strip(), json.dumps(arguments, ensure_ascii=False)))
        return calls


class Bare:
    """The whole answer is one JSON object or several, with `;` between them, after a mark or not (LLaMA 3)."""

    MARK = "<|python_tag|>"

    def __init__(self) -> None:
        self._text, self._plain = "", False

    def push(self, piece: str) -> list[Said]:
        """See `ToolParser`; an answer that begins like a call is held back to its end."""
        self._text += piece
        begun = self._text.lstrip()
        may_be = begun.startswith(("{", self.MARK)) or self.MARK.startswith(begun)
        if may_be and not self._plain:
            return []
        self._plain = True
        text, self._text = self._text, ""
        return [text] if text else []

    def finish(self) -> list[Said]:
        """See `ToolParser`."""
        text, self._text = self._text, ""
        return calls_in(text.strip().removeprefix(self.MARK)) or ([text] if text else [])


PARSERS: Mapping[str, Callable[[], ToolParser]] = {"hermes": Tagged, "mistral": Announced, "llama3": Bare}
"""By the name of the format."""


def format_of(chat_template: str | None) -> str | None:
    """The format in which a template shows calls, one of PARSERS; None if it shows none that is known."""
    template = chat_template or ""
    if Announced.MARK in template:
        return "mistral"
    if Tagged.OPEN in template and "<function=" not in template:
        return "hermes"
    asks = '"parameters"' in template and "tools" in template
    return "llama3" if Bare.MARK in template or (asks and "ipython" in template) else None


def parser_of(name: str) -> ToolParser:
    """A new parser of that format; raises PromptError for an unknown one."""
    if name not in PARSERS:
        raise PromptError(f"unknown format of tool calls '{name}'; {nearest(name, PARSERS)}", where="tools")
    return PARSERS[name]()


def parse(text: str, name: str) -> tuple[str, list[Call]]:
    """The content and the calls of a whole answer."""
    parser = parser_of(name)
    said = [*parser.push(text), *parser.finish()]
    return "".join(part for part in said if isinstance(part, str)), [p for p in said if isinstance(p, Call)]


def undecided(text: str, mark: str) -> int:
    """The length of the text's end that may belong to a call: white space, and the beginning of `mark`."""
    begun = next(n for n in range(len(mark) - 1, -1, -1) if text.endswith(mark[:n]))
    before = text[: len(text) - begun]
    return begun + len(before) - len(before.rstrip())


def calls_in(text: str) -> list[Said]:
    """The calls that `text` consists of, in a list, side by side or with `;` between; none if it is anything else."""
    calls: list[Said] = []
    while text := text.strip().removeprefix(";").strip():
        value, text = _value(text)
        for one in value if isinstance(value, list) else [value]:
            call = _call(one)
            if call is None:
                return []
            calls.append(call)
    return calls


def _call(value: Any) -> Call | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # some models write the object as a string
        arguments, behind = _value(arguments)
        arguments = None if behind else arguments
    if not isinstance(arguments, dict):
        return None
    return Call(value["name"], json.dumps(arguments, ensure_ascii=False))


def _value(text: str) -> tuple[Any, str]:
    """The JSON value that `text` begins with, and the rest; None and no rest if it begins with none."""
    try:
        value, end = DECODER.raw_decode(text)
    except json.JSONDecodeError:
        return None, ""
    return value, text[end:]
