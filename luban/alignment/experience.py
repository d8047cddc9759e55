"""Answers as tensors: what the policy did, how likely it was then, and what it turned out to be worth.

A row is a prompt and its answer, padded on the right, so that plain causal attention is right for it. Everything
about actions is [batch actions]: action j of a row is the answer's token j, and `places` says where in the row the
state stands that chose it. Behind an answer's end there are zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from luban.alignment.rollout import Answer
from luban.data.batch import Origin


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Answers of an iteration, or some of them; also the batch that an objective takes."""

    tokens: Int[Tensor, "batch seq"]
    places: Int[Tensor, "batch actions"]
    actions: Int[Tensor, "batch actions"]
    there: Bool[Tensor, "batch actions"]
    """False behind an answer's end."""
    logps: Float[Tensor, "batch actions"]
    """Of the actions, when they were taken."""
    reference_logps: Float[Tensor, "batch actions"]
    advantages: Float[Tensor, "batch actions"]
    values: Float[Tensor, "batch actions"]
    """What the critic expected, when the actions were taken; zeros where there is no critic."""
    returns: Float[Tensor, "batch actions"]
    """What the critic should have said."""
    ids: list[Origin]
    """Where each row's prompt comes from (to name a bad batch)."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def target_count(self) -> int:
        """Actions that are learned from."""
        return int(self.there.sum())

    def select(self, rows: Sequence[int]) -> Experience:
        """Some rows, without the padding that only the others needed."""
        chosen = torch.tensor(list(rows), dtype=torch.long)
        actions = int(self.there[chosen].sum(1).max()) if len(chosen) else 0
        last = torch.where(self.there[chosen], self.places[chosen], 0)
        seq = int(last.max()) + 2 if len(chosen) else 0  # the last action itself stands one further
        cut = {
            name: value[chosen, : seq if name == "tokens" else actions]
            for name, value in self.tensors().items()
        }
        return Experience(**cut, ids=[self.ids[row] for row in rows])

    def tensors(self) -> dict[str, Tensor]:
        """All but `ids`, by name."""
        fields = [field.name for field in dataclasses.fields(self) if field.name != "ids"]
        return {name: getattr(self, name) for name in fields}

    def to(self, device: torch.device | str) -> Experience:
        """The same on `device`."""
        return dataclasses.replace(self, **{name: value.to(device) for name, value in self.tensors().items()})

    def learnable(self) -> Experience:
        """The rows that have an action to learn from."""
        return self.select(self.there.any(1).nonzero()[:, 0].tolist())


def gathered(answers: Sequence[Answer]) -> Experience:
    """Answers as tensors, with the sampler's log-probabilities; what they are worth is zero as yet."""
    rows = [torch.tensor([*answer.prompt.ids, *answer.tokens]) for answer in answers]
    begins = torch.tensor([len(answer.prompt.ids) - 1 for answer in answers])
    lengths = torch.tensor([len(answer.tokens) for answer in answers])
    steps = torch.arange(int(lengths.max()))
    there = steps < lengths[:, None]
    logps = pad_sequence([torch.tensor(answer.logps) for answer in answers], batch_first=True)
    nothing = torch.zeros_like(logps)
    return Experience(
        tokens=pad_sequence(rows, batch_first=True),
        places=torch.where(there, begins[:, None] + steps, 0),
        actions=pad_sequence([torch.tensor(answer.tokens) for answer in answers], batch_first=True),
        there=there,
        logps=logps,
        reference_logps=nothing,
        advantages=nothing,
        values=nothing,
        returns=nothing,
        ids=[_origin(answer.prompt.where) for answer in answers],
    )


def only_finished(experience: Experience, answers: Sequence[Answer]) -> Experience:
    """The same rows, of which truncated answers have no action to learn from."""
    finished = torch.tensor([answer.finished for answer in answers], device=experience.there.device)
    return dataclasses.replace(experience, there=experience.there & finished[:, None])


def joined(parts: Sequence[Experience]) -> Experience:
    """The rows of several, padded to the longest."""
    names = parts[0].tensors()
    whole = {name: [row for part in parts for row in getattr(part, name).unbind(0)] for name in names}
    padded = {name: pad_sequence(rows, batch_first=True) for name, rows in whole.items()}
    return Experience(**padded, ids=[origin for part in parts for origin in part.ids])


def _origin(where: str) -> Origin:
    source, _, line = where.rpartition(":")
    return Origin(source, int(line))
