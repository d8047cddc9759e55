"""A language model in a few lines: it repeats the last thing said, word by word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from luban.errors import PromptError
from luban.lm import Conversation, Generation, Sampling, Score


class EchoLM:
    """Counts one token a word and four more for the answer; its window holds `context` of them."""

    context = 40

    def __init__(self, name: str = "echo") -> None:
        self.name = name
        self.seeds: list[int | None] = []
        self.asked: list[Conversation] = []

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[Generation]:
        return [self._answer(f" {prompt}", sampling) for prompt in prompts]

    def chat(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        return [self._answer("".join(self.stream(one, sampling)), sampling) for one in conversations]

    def stream(self, conversation: Conversation, sampling: Sampling) -> Iterator[str]:
        if self.count(conversation) > self.context:
            raise PromptError("longer than the window")
        self.asked.append(list(conversation))
        self.seeds.append(sampling.seed)
        yield from conversation[-1].get("content", "").partition(" ")

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        return [Score(logps=[-1.0] * len(right.split()), greedy=False) for _, right in pairs]

    def count(self, conversation: Conversation) -> int:
        return 4 + sum(len(message.get("content", "").split()) for message in conversation)

    def _answer(self, text: str, sampling: Sampling) -> Generation:
        tokens = list(range(len(text.split())))[: sampling.max_tokens]
        return Generation(text=text, tokens=tokens, logps=[], finish_reason="stop", prompt_tokens=1)
