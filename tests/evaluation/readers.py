"""Language models whose knowledge is known, for measures that must find it out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence

from luban.lm import Conversation, Generation, Sampling, Score


class Reader:
    """A language model that scores by a function of context and continuation, and does nothing else."""

    name = "reader"

    def __init__(self, answer: Callable[[str, str], Score]) -> None:
        self.answer = answer

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[Generation]:
        raise NotImplementedError

    def chat(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        raise NotImplementedError

    def stream(self, conversation: Conversation, sampling: Sampling) -> Iterator[str]:
        raise NotImplementedError

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        return [self.answer(context, continuation) for context, continuation in pairs]


def finder(reach: int) -> Reader:
    """One that finds any number in the last `reach` characters of what it reads."""

    def answer(context: str, continuation: str) -> Score:
        found = re.search(r"\d+", context[-reach:])
        return Score(logps=[], greedy=found is not None and f" {found[0]}" == continuation)

    return Reader(answer)


def warming_up(characters: int) -> Reader:
    """One that guesses among 16 for the first `characters` of a text and among 2 from then on, one token each."""

    def answer(_context: str, text: str) -> Score:
        choices = [16 if place < characters else 2 for place in range(len(text))]
        return Score(logps=[-math.log(count) for count in choices], greedy=False)

    return Reader(answer)
