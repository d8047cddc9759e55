"""What people are asked to compare answers to: the prompts of a file, each a conversation that waits for an answer.

A row is `{"prompt": text or messages}`, a line of text, or any conversation that `luban sft` reads: then all before
its last answer is the prompt.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from luban.data.row_files import RawRow, read_raw
from luban.data.row_formats import to_row
from luban.errors import DataError, LubanError
from luban.lm import Message
from luban.serving.votes import prompt_key

Check = Callable[[list[Message]], None]
"""Raises an error of the house for a prompt that a model could not answer."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A conversation that ends with what the user said, and its file and line."""

    messages: list[Message]
    where: str
    is_typed: bool = False
    """Whether it comes from the page and not from a file."""

    @property
    def key(self) -> str:
        """The text by which it is known again."""
        return prompt_key(self.messages)


def read_prompts(path: Path, check: Check) -> list[Prompt]:
    """The prompts of a file or folder, each once; how many stood there twice is told.

    Raises DataError naming file and line for a row without prompt and for one that `check` refuses.
    """
    found: dict[str, Prompt] = {}
    rows = 0
    for rows, raw in enumerate(read_raw(path), 1):  # noqa: B007 - the last number is their count
        prompt = Prompt(messages=_messages(raw), where=raw.where)
        try:
            check(prompt.messages)
        except LubanError as error:
            raise DataError(error.what, where=raw.where, hint=error.hint) from None
        found.setdefault(prompt.key, prompt)
    if len(found) < rows:
        print(f"prefer: {rows - len(found)} of {rows} rows repeat another's prompt", file=sys.stderr)
    return list(found.values())


def typed(text: str) -> Prompt:
    """The prompt that somebody typed on the page; raises DataError if there is nothing in it."""
    if not text.strip():
        raise DataError("the prompt is empty", where="field 'prompt'")
    return Prompt(messages=[{"role": "user", "content": text.strip()}], where="the page", is_typed=True)


def _messages(raw: RawRow) -> list[Message]:
    value = raw.sound()
    asked = value.get("prompt") if isinstance(value, dict) else None
    if isinstance(asked, list):
        messages = [dict(message) for message in to_row(asked, where=raw.where).messages]
    elif isinstance(asked, str):
        messages = [{"role": "user", "content": asked}]
    elif asked is not None:
        raise DataError("'prompt' is neither a text nor a list of messages", where=raw.where)
    else:
        messages = _before_the_answer(raw)
    last = messages[-1] if messages else {}
    if last.get("role") not in ("user", "tool") or not str(last.get("content") or "").strip():
        raise DataError("the prompt does not end with something that the user said", where=raw.where)
    return cast("list[Message]", messages)


def _before_the_answer(raw: RawRow) -> list[dict[str, Any]]:
    row = to_row(raw.value, where=raw.where)
    if not row.messages:
        return [{"role": "user", "content": row.prompt or row.completion}]
    messages = [dict(message) for message in row.messages]
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    return messages
