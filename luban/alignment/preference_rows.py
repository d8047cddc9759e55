"""The shapes in which people keep preferences, each read into two answers to one prompt, or one judged answer.

A row is recognised by its keys, in this order (`margin`, a number, may stand beside the first two):

    pair        {"prompt", "chosen", "rejected"}: texts or lists of messages, in any mixture
    joined      {"chosen", "rejected"}: the prompt is what both begin with: messages, HH-RLHF's text, other text
    ranked      {"prompt", "answers": [best, ..., worst]}, or in any order with "scores": [...]: a pair of each two
    judged      {"prompt", "completion", "label": true|false}: one answer, good or not (for `dpo.loss=kto`)

An answer is whatever follows the prompt; `row_formats` makes of it the conversation or text that a model reads.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from luban.data.row_formats import Row, to_row
from luban.errors import DataError

HH_TURN = re.compile(r"\n\n(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}
LABELS = {"true": True, "1": True, "false": False, "0": False}
"""In tables every cell is a text."""
Turns = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Two answers to one prompt."""

    where: str
    """File and line."""
    chosen: Row
    rejected: Row
    margin: float = 0.0
    """By how much the chosen one is better, on the row's own scale; 0 where it says nothing."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One answer, and whether it is good."""

    where: str
    answer: Row
    good: bool


Read = Callable[[dict[str, Any], str], Iterator[Preference | Judged]]


def to_preferences(raw: Any, *, where: str) -> list[Preference | Judged]:
    """What a JSON value prefers: one pair, several from a ranking, or a judged answer.

    Raises DataError naming `where` for keys of no format, an empty answer, or two answers that are the same.
    """
    if not isinstance(raw, dict):
        raise DataError("a row of preferences is an object", where=where)
    for keys, read in READERS.items():
        if all(raw.get(key) is not None for key in keys):
            return list(read(raw, where))
    accepted = ", ".join("+".join(keys) for keys in READERS)
    found = ", ".join(raw) or "none"
    raise DataError(
        f"unknown preference format with keys: {found}", where=where, hint=f"rows with {accepted}"
    )


def _read_pair(raw: dict[str, Any], where: str) -> Iterator[Preference]:
    yield _preference(raw["prompt"], raw["chosen"], raw["rejected"], where, margin=_margin(raw, where))


def _read_joined(raw: dict[str, Any], where: str) -> Iterator[Preference]:
    chosen, rejected = raw["chosen"], raw["rejected"]
    _check_answers(chosen, rejected, where)
    if isinstance(chosen, str) and isinstance(rejected, str) and HH_TURN.match(chosen):
        chosen, rejected = _hh_turns(chosen, where), _hh_turns(rejected, where)
    prompt, chosen, rejected = _parted(chosen, rejected, where)
    yield _preference(prompt, chosen, rejected, where, margin=_margin(raw, where))


def _read_ranked(raw: dict[str, Any], where: str) -> Iterator[Preference]:
    answers = raw["answers"]
    if not isinstance(answers, list) or len(answers) < 2:
        raise DataError("'answers' is a list of two or more", where=where)
    scores = raw.get("scores") or list(range(len(answers), 0, -1))
    if len(scores) != len(answers) or not all(isinstance(score, int | float) for score in scores):
        raise DataError(f"'scores' must be {len(answers)} numbers, one for each answer", where=where)
    for one, other in itertools.combinations(range(len(answers)), 2):
        if scores[one] != scores[other]:
            better, worse = (one, other) if scores[one] > scores[other] else (other, one)
            place = f"{where} answers {better + 1} and {worse + 1}"
            yield _preference(raw["prompt"], answers[better], answers[worse], place)


def _read_judged(raw: dict[str, Any], where: str) -> Iterator[Judged]:
    label = str(raw["label"]).lower()
    if label not in LABELS:
        raise DataError(f"'label' is {raw['label']!r}; it says true or false", where=where)
    _check_empty(raw["completion"], "judged", where)
    yield Judged(where=where, answer=_row(raw["prompt"], raw["completion"], where), good=LABELS[label])


READERS: dict[tuple[str, ...], Read] = {
    ("prompt", "chosen", "rejected"): _read_pair,
    ("chosen", "rejected"): _read_joined,
    ("prompt", "answers"): _read_ranked,
    ("prompt", "completion", "label"): _read_judged,
}


def _preference(prompt: Any, chosen: Any, rejected: Any, where: str, *, margin: float = 0.0) -> Preference:
    _check_answers(chosen, rejected, where)
    return Preference(
        where=where,
        chosen=_row(prompt, chosen, where),
        rejected=_row(prompt, rejected, where),
        margin=margin,
    )


def _row(prompt: Any, answer: Any, where: str) -> Row:
    """The conversation, or the plain text, in which `answer` follows `prompt`."""
    if isinstance(prompt, str) and isinstance(answer, str):
        return to_row({"prompt": prompt, "completion": answer}, where=where)
    before, after = _turns(prompt, "user", "prompt", where), _turns(answer, "assistant", "answer", where)
    if after[: len(before)] == before:  # a whole conversation beside its prompt
        after = after[len(before) :]
    if not after or _speaker(after[-1]) != "assistant":
        raise DataError("an answer ends with the assistant's message", where=where)
    return to_row({"prompt": before, "completion": after}, where=where)


def _turns(value: Any, role: str, name: str, where: str) -> Turns:
    """A list of messages as it is; a text is one message of `role`."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list) or not value:
        raise DataError(f"the {name} is neither a text nor a list of messages", where=where)
    return value


def _speaker(turn: Any) -> Any:
    return turn.get("role") if isinstance(turn, dict) else None


def _hh_turns(text: str, where: str) -> Turns:
    """HH-RLHF's text, turns that begin with `\\n\\nHuman:` or `\\n\\nAssistant:`, as messages."""
    before, *parts = HH_TURN.split(text)
    if before.strip():
        raise DataError("one answer is HH-RLHF's text and the other is not", where=where)
    turns = [
        {"role": HH_ROLES[speaker], "content": words.strip()}
        for speaker, words in zip(parts[::2], parts[1::2], strict=True)
    ]
    if turns[-1]["role"] != "assistant" or not turns[-1]["content"]:
        raise DataError("the last turn is not an answer of the assistant", where=where)
    return turns


def _parted(chosen: Any, rejected: Any, where: str) -> tuple[Any, Any, Any]:
    """What both begin with, and how each goes on; raises DataError where that is not one prompt and two answers."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        alike = itertools.takewhile(lambda two: two[0] == two[1], zip(chosen, rejected, strict=False))
        shared = chosen[: sum(1 for _ in alike)]
        shared = shared[: len(shared.rstrip()) if shared[-1:].isspace() else _last_space(shared)]
        return shared, chosen[len(shared) :], rejected[len(shared) :]
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        raise DataError("'chosen' and 'rejected' are two texts or two lists of messages", where=where)
    same = list(itertools.takewhile(lambda two: two[0] == two[1], zip(chosen, rejected, strict=False)))
    one, other = chosen[len(same) :], rejected[len(same) :]
    if not same:
        raise DataError("the two conversations share no prompt: their first turns differ", where=where)
    for turns in (one, other):
        if not turns or _speaker(turns[0]) != "assistant":
            raise DataError("the two conversations part before the assistant's turn", where=where)
    return chosen[: len(same)], one, other


def _last_space(text: str) -> int:
    """Where the last word of `text` begins, the space before it included: words are not cut in two."""
    return max(text.rfind(" "), text.rfind("\n"), 0)


def _check_answers(chosen: Any, rejected: Any, where: str) -> None:
    _check_empty(chosen, "chosen", where)
    _check_empty(rejected, "rejected", where)
    if chosen == rejected:
        raise DataError("chosen and rejected are the same", where=where)


def _check_empty(answer: Any, name: str, where: str) -> None:
    last = answer[-1] if isinstance(answer, list) and answer else answer
    said = (last.get("content") or last.get("tool_calls")) if isinstance(last, dict) else last
    if not said or (isinstance(said, str) and not said.strip()):
        raise DataError(f"the {name} answer is empty", where=where)


def _margin(raw: dict[str, Any], where: str) -> float:
    try:
        return float(raw.get("margin") or 0.0)
    except (TypeError, ValueError):
        raise DataError(f"'margin' is {raw['margin']!r}, not a number", where=where) from None
