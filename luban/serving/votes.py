"""Votes and the two files they are kept in: what `luban prefer` leaves behind.

    preferences.jsonl   the better answer of a pair and the worse one: rows that `luban reward` and `luban dpo` read
    undecided.jsonl     pairs of which neither is preferred, and why: never learnt from, and not asked again

A row is one write of one line at the end of its file, so that a file holds whole rows and those only. An undo cuts
that line off again, if nobody else has written since.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from luban.config import canonical_json
from luban.errors import DataError, LubanError
from luban.lm import Message

PREFERENCES, UNDECIDED = "preferences.jsonl", "undecided.jsonl"
STRENGTHS = 3
"""Levels of how much more one answer is than the other: slightly, clearly, much."""
Mode = Literal["helpful", "harmless"]


class ConflictError(LubanError):
    """What is asked contradicts what is settled already."""


class Vote(BaseModel):
    """What a person says of a pair: which answer is more what was asked for, and how much more; or why neither is."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    pair: str
    verdict: Literal["a", "b", "same", "both_bad", "skip"]
    strength: Annotated[int, Ge(1), Le(STRENGTHS)] | None = None

    @model_validator(mode="after")
    def _strength_belongs_to_a_preference(self) -> Vote:
        if (self.verdict in ("a", "b")) != (self.strength is not None):
            raise ValueError("'strength' goes with the verdicts 'a' and 'b', and only with them")
        return self


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One side of a pair, as it is kept."""

    model: str
    seed: int
    text: str
    finish_reason: str | None


def read_vote(body: bytes) -> Vote:
    """The vote in a JSON body; raises DataError naming the field that is wrong and what it may be."""
    try:
        return TypeAdapter(Vote).validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "value_error":
            field = "strength"
        where = f"field '{field}'" if field else "body"
        raise DataError(first["msg"].removeprefix("Value error, "), where=where) from None


def row_of(vote: Vote, prompt: Sequence[Message], a: Answer, b: Answer, mode: Mode) -> dict[str, Any]:
    """The row that is kept of a vote on `a` and `b`, the answers as they stood on the page.

    In the mode `harmless` people name the *more harmful* answer (Bai et al. 2022, section 2.2, arXiv:2204.05862), so
    the other one is chosen. The margin is the strength's share of the greatest: the small margins of Touvron et al.
    2023, appendix A.3.3 (arXiv:2307.09288); the reward stage's `margin` multiplies it.
    """
    if vote.strength is None:
        return undecided_row(vote.verdict, prompt, a, b, mode)
    a_is_chosen = (vote.verdict == "a") == (mode == "helpful")
    chosen, rejected = (a, b) if a_is_chosen else (b, a)
    return {
        "prompt": list(prompt),
        "chosen": _said(chosen),
        "rejected": _said(rejected),
        "strength": vote.strength,
        "margin": round(vote.strength / STRENGTHS, 4),
        "chosen_stood": "a" if a_is_chosen else "b",
        **_made(chosen, rejected, mode),
    }


def undecided_row(
    verdict: str, prompt: Sequence[Message], a: Answer, b: Answer, mode: Mode
) -> dict[str, Any]:
    """The row that is kept of a pair without a preference; its keys are none that a training stage reads."""
    return {"prompt": list(prompt), "a": _said(a), "b": _said(b), "verdict": verdict, **_made(a, b, mode)}


def prompt_key(prompt: Sequence[Any]) -> str:
    """One text per prompt, by which it is known again."""
    return canonical_json(list(prompt))


class Ledger:
    """The two files of a folder, read at the start and then only added to, or cut back by what was added last."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError naming file and line for a row that is not one; a torn last line is cut off, and told."""
        self.folder = folder
        self.counts = {PREFERENCES: 0, UNDECIDED: 0}
        """Rows in each file."""
        self.asked = Counter[str]()
        """Times each prompt, by its key, was settled."""
        self._added: list[_Added] = []
        for name in self.counts:
            for row in _rows(folder / name):
                self._count(name, prompt_key(row["prompt"]), 1)

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row: when this returns it is on the disk, whole; when this raises nothing is."""
        name = PREFERENCES if "chosen" in row else UNDECIDED
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8")
        begins = _append(self.folder / name, line)
        key = prompt_key(row["prompt"])
        self._added.append(_Added(name, key, begins, begins + len(line)))
        self._count(name, key, 1)

    def undo(self) -> None:
        """Cut off the row that was added last; raises ConflictError if its file has been changed since."""
        last = self._added[-1]
        path = self.folder / last.name
        if path.stat().st_size != last.ends:
            what = "the file was changed by someone else, so its last row stays"
            raise ConflictError(what, where=path, hint="edit it by hand while the page is not served")
        os.truncate(path, last.begins)
        self._added.pop()
        self._count(last.name, last.key, -1)

    def _count(self, name: str, key: str, by: int) -> None:
        self.counts[name] += by
        self.asked[key] += by


class _Added(NamedTuple):
    """A row of this session: its file, its prompt, and the bytes of the file that it takes."""

    name: str
    key: str
    begins: int
    ends: int


def _append(path: Path, line: bytes) -> int:
    """Put `line` at the end of the file in one write; returns where it begins."""
    with path.open("ab", buffering=0) as file:
        begins, whole = file.tell(), False
        try:
            written = file.write(line)
            os.fsync(file.fileno())
            whole = written == len(line)
        finally:
            if not whole:
                file.truncate(begins)
    if not whole:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return begins


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that this page wrote before; none if there is no file."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        print(f"prefer: {path}: cut off a last line that was never finished", file=sys.stderr)
        os.truncate(path, len(whole))
    for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError as error:  # not JSON, or not UTF-8
            raise DataError(f"not valid JSON: {error}", where=f"{path}:{number}") from None
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), list):
            raise DataError("not a row of luban prefer: there is no list 'prompt'", where=f"{path}:{number}")
        yield row


def _said(answer: Answer) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": answer.text}]


def _made(first: Answer, second: Answer, mode: Mode) -> dict[str, Any]:
    """How the two answers came about, the first one first."""
    both = (first, second)
    return {
        "mode": mode,
        "models": [answer.model for answer in both],
        "seeds": [answer.seed for answer in both],
        "finish_reasons": [answer.finish_reason for answer in both],
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
