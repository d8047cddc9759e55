"""A small memory of past iterations, so that answers are learned from more than once, a little later."""

from __future__ import annotations

from collections import deque
from typing import Any

from luban.alignment.experience import Experience, joined
from luban.data.batch import Origin


class Replay:
    """The last `size` iterations' experience; what was said of them then stays as it was."""

    def __init__(self, size: int) -> None:
        self.past: deque[Experience] = deque(maxlen=size)

    def with_past(self, experience: Experience) -> Experience:
        """`experience` and all that is remembered, which it then belongs to."""
        whole = joined([experience, *self.past]) if self.past else experience
        self.past.append(experience)
        return whole

    def state(self) -> list[Any]:
        """Tensors and plain values; `restore` goes on from here."""
        return [
            {"tensors": part.tensors(), "ids": [tuple(origin) for origin in part.ids]} for part in self.past
        ]

    def restore(self, state: list[Any]) -> None:
        """Go on where `state` was taken."""
        self.past.clear()
        for part in state:
            self.past.append(Experience(**part["tensors"], ids=[Origin(*origin) for origin in part["ids"]]))
