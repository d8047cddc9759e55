"""Questions with one right answer, asked through chat and compared after normalisation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from luban.data.conversations import read_conversations
from luban.errors import DataError
from luban.lm import LM, Conversation, Sampling

NORMALISATION = "lower case, white space folded, final punctuation dropped"


@dataclass(frozen=True, kw_only=True)
class Question:
    """A conversation up to the answer, and the answer."""

    messages: Conversation
    answer: str


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How many of `asked` were right, with Wilson's 95 % interval, and what saying one answer always would give."""

    correct: int
    asked: int
    low: float
    high: float
    majority: float
    first: dict[str, Any]


def read_questions(path: Path, limit: int | None) -> list[Question]:
    """The rows of `path` whose last turn is the answer; raises DataError for a row without one."""
    questions = []
    for row in read_conversations(path):
        if not row.messages or row.messages[-1]["role"] != "assistant":
            raise DataError("a question row must end with the assistant's answer", where=row.where)
        questions.append(
            Question(messages=cast(Conversation, row.messages[:-1]), answer=row.messages[-1]["content"])
        )
        if limit is not None and len(questions) == limit:
            break
    if not questions:
        raise DataError("no question in the file", where=path)
    return questions


def ask(lm: LM, questions: Sequence[Question]) -> Answers:
    """Ask each question greedily, with no examples, and count the answers that equal the right one."""
    longest = max(len(question.answer) for question in questions)
    sampling = Sampling(temperature=0, max_tokens=longest + 4)
    given = lm.chat([question.messages for question in questions], sampling)
    hits = [same(answer.text, question.answer) for answer, question in zip(given, questions, strict=True)]
    low, high = wilson(sum(hits), len(hits))
    majority = Counter(normalise(question.answer) for question in questions).most_common(1)[0][1]
    return Answers(
        correct=sum(hits),
        asked=len(hits),
        low=low,
        high=high,
        majority=majority / len(questions),
        first={
            "messages": list(questions[0].messages),
            "expected": questions[0].answer,
            "given": given[0].text,
        },
    )


def same(given: str, expected: str) -> bool:
    return normalise(given) == normalise(expected)


def normalise(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".!?。！？ ")


def wilson(correct: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a share. Source: Wilson 1927."""
    share = correct / asked
    centre = share + z * z / (2 * asked)
    spread = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    return (centre - spread) / (1 + z * z / asked), (centre + spread) / (1 + z * z / asked)
