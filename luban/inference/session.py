"""A conversation that grows turn by turn and is trimmed to the model's window; the terminal is elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import yaml

from luban.config import build, to_dict
from luban.errors import ConfigError, PromptError
from luban.lm import LM, Conversation, Message, Sampling


class ChatLM(LM, Protocol):
    """A language model that also tells how much of its window a conversation takes."""

    context: int

    def count(self, conversation: Conversation) -> int:
        """Tokens of `conversation`, the call for an answer included."""
        ...


class Session:
    """The state of one chat: system text, turns, sampling.

    `hidden` counts the oldest messages that the model no longer sees because the window is full; they stay in
    `messages`. Each answer draws from its own seed, so that a retry differs and a session can be repeated.
    """

    def __init__(self, lm: ChatLM, sampling: Sampling, *, system: str | None = None) -> None:
        self.lm, self.sampling, self.system = lm, sampling, system
        self.messages: list[Message] = []
        self.hidden = 0
        self._answers = 0

    def ask(self, text: str) -> Iterator[str]:
        """Pieces of the answer to `text`.

        What came before an interruption is kept as the answer; if nothing came, the question is forgotten.
        """
        self.messages.append({"role": "user", "content": text})
        pieces: list[str] = []
        try:
            self._fit()
            for piece in self.lm.stream(self.visible(), self._next_sampling()):
                pieces.append(piece)
                yield piece
        finally:
            if pieces:
                self.messages.append({"role": "assistant", "content": "".join(pieces)})
            else:
                self.messages.pop()

    def retry(self) -> Iterator[str]:
        """Pieces of another answer to the last question; raises PromptError if there is none."""
        return self.ask(self.undo())

    def undo(self) -> str:
        """Forget the last question and its answer; returns the question."""
        if not self.messages:
            raise PromptError("there is no question yet")
        question = self.messages[-2].get("content", "")
        del self.messages[-2:]
        self.hidden = min(self.hidden, len(self.messages))
        return question

    def clear(self) -> None:
        """Forget all turns; the system text stays."""
        self.messages.clear()
        self.hidden = 0

    def set(self, assignment: str) -> None:
        """Change one sampling value, `temperature=0.5`; raises ConfigError naming the choices."""
        name, equals, value = assignment.partition("=")
        try:
            plain = yaml.safe_load(value)
        except yaml.YAMLError:
            plain = value
        if not equals:
            raise ConfigError(f"cannot read '{assignment}'", where="/set", hint="/set temperature=0.5")
        changed = to_dict(self.sampling) | {name.strip(): plain}
        self.sampling = build(Sampling, changed, where="/set")

    def row(self) -> dict[str, Any]:
        """The whole conversation as a row for `luban sft`."""
        return {"messages": [*self._system_message(), *self.messages]}

    def visible(self) -> list[Message]:
        """The messages that the model sees."""
        return [*self._system_message(), *self.messages[self.hidden :]]

    def _fit(self) -> None:
        """Hide whole oldest turns until the window has room for an answer.

        The room is `max_tokens`, but at most a quarter of the window, or small models could remember nothing.
        """
        room = min(self.sampling.max_tokens, self.lm.context // 4)
        while self.hidden < len(self.messages) - 1 and self.lm.count(self.visible()) + room > self.lm.context:
            self.hidden += 2

    def _system_message(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def _next_sampling(self) -> Sampling:
        self._answers += 1
        if self.sampling.seed is None:
            return self.sampling
        return dataclasses.replace(self.sampling, seed=self.sampling.seed + self._answers - 1)
