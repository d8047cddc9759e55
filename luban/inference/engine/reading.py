"""What is told of a prompt itself: its tokens' log-probabilities, or its embedding, gathered chunk by chunk.

A long prompt goes through the model in chunks, and of each chunk only a bounded number of logits exists at once; so
nothing of the size [prompt, vocab] is ever held. A chunk that is read again, because its keys were dropped meanwhile,
changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from luban.inference.embed import Pooling

LOGITS_AT_ONCE = 1 << 22
"""How many logits exist at once: 16 MB of float32."""


@dataclass(frozen=True)
class PromptLogp:
    """How likely a prompt token is after those before it: its natural log-probability, and the likeliest tokens."""

    logp: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(kw_only=True)
class Reading:
    """A prompt on its way through the model, and what is wanted of it."""

    prompt: Sequence[int]
    likeliest: int | None = None
    """Tell the log-probabilities, and so many of the likeliest tokens; None tells neither."""
    pooling: Pooling | None = None
    logps: list[PromptLogp] = field(default_factory=list)
    """Of the prompt's tokens from the second one on."""
    _sum: Tensor | None = None
    _pooled: int = 0

    @property
    def done(self) -> bool:
        """Whether all that is wanted is known."""
        told = self.likeliest is None or len(self.logps) == len(self.prompt) - 1
        return told and (self.pooling is None or self._pooled == len(self.prompt))

    @property
    def embedding(self) -> tuple[float, ...]:
        """The pooled states of the whole prompt, in the model's scale."""
        assert self._sum is not None, "nothing was read"
        assert self._pooled == len(self.prompt), "the prompt is not read to its end"
        parts = self._pooled if self.pooling == "mean" else 1
        return tuple((self._sum / parts).tolist())

    def take(self, model: Any, states: Float[Tensor, "tokens dim"], *, before: int) -> None:
        """Go on with the states of tokens that stand behind `before` others; of what is known already, nothing."""
        if self.likeliest is not None:
            new = states[max(0, len(self.logps) - before) : len(self.prompt) - 1 - before]
            for some in new.split(max(1, LOGITS_AT_ONCE // model.config.vocab)):
                self.logps += self._logps_after(model.head(some).float())
        if self.pooling is not None:
            self._pool(states[max(0, self._pooled - before) : len(self.prompt) - before])

    def _logps_after(self, logits: Float[Tensor, "tokens vocab"]) -> Iterator[PromptLogp]:
        first = len(self.logps) + 1
        targets = torch.tensor(self.prompt[first : first + len(logits)], device=logits.device)
        logps = logits.log_softmax(-1)
        own = logps.gather(1, targets[:, None])[:, 0].tolist()
        best = likeliest(logps, self.likeliest or 0)
        return (PromptLogp(*pair) for pair in zip(own, best, strict=True))

    def _pool(self, states: Float[Tensor, "tokens dim"]) -> None:
        if not len(states):
            return
        new = states.double().sum(0) if self.pooling == "mean" else states[-1].double()
        known = self._sum if self.pooling == "mean" and self._sum is not None else 0
        self._sum, self._pooled = known + new.cpu(), self._pooled + len(states)


def likeliest(logps: Float[Tensor, "tokens vocab"], count: int) -> list[tuple[tuple[int, float], ...]]:
    """Of each row the `count` likeliest tokens with their log-probabilities, the first the likeliest."""
    best, ids = logps.topk(min(count, logps.shape[-1]))
    rows = zip(ids.tolist(), best.tolist(), strict=True)
    return [tuple(zip(*row, strict=True)) for row in rows]
