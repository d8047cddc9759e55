"""A language model of a few rules for these tests: what it says of a word depends on the text, so that all is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from luban.lm import Conversation, Generation, Sampling, Score
from luban.tuning.labelled import Labelled


def row(text: str, label: str | None = None, second: str | None = None) -> Labelled:
    return Labelled(text=text, second=second, labels=(label,) if label else (), where=f"row {text!r}")


class Ruled:
    """Gives a continuation the probability `favour` of its word, times `boost` for each cue of it in the context.

    `asked` remembers every pair. What it generates is the word that it scores best among those it knows.
    """

    name = "ruled"

    def __init__(self, favour: Mapping[str, float], cues: Mapping[str, str], *, boost: float = 2.0) -> None:
        self.favour, self.cues, self.boost = favour, cues, boost
        self.asked: list[tuple[str, str]] = []

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[Generation]:
        self.drawn_with = sampling
        return [self._answer(prompt) for prompt in prompts]

    def chat(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        raise NotImplementedError

    def stream(self, conversation: Conversation, sampling: Sampling) -> Iterator[str]:
        raise NotImplementedError

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        self.asked += pairs
        return [Score(logps=[self._logp(*pair)], greedy=False) for pair in pairs]

    def _logp(self, context: str, continuation: str) -> float:
        word = continuation.split()[0].strip(".:")
        heard = sum(context.count(cue) for cue, meant in self.cues.items() if meant == word)
        return math.log(self.favour[word]) + heard * math.log(self.boost)

    def _answer(self, prompt: str) -> Generation:
        word = max(self.favour, key=lambda word: self._logp(prompt, word))
        return Generation(text=f" {word}, it", tokens=[1], logps=[], finish_reason="length", prompt_tokens=1)
