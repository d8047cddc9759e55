"""The two sides of a parameter server: shards that hold the parameters, workers that differentiate.

    worker: pull from every shard -> gradient of its rows -> push each shard its part
    shard:  synchronous: lay pushes aside until all workers' are here, then step; asynchronous: step on each push

Neither knows where the other runs: `crews.py` calls them in this process or as actors of Ray, in the order that
`scheduler.py` decides.

Source: Li et al. 2014 (OSDI), sections 3.2 and 3.6; our keys are whole tensors, because AdamW decays only matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from luban.data.batch import Batch
from luban.errors import ConfigError
from luban.training.config import OptimizerConfig
from luban.training.optim import adamw, learning_rate_at
from luban.training.step import Objective


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a shard steps."""

    optimizer: OptimizerConfig
    updates: int
    """Steps of the optimizer in the whole run, which the learning rate's schedule goes by."""
    slow_down: bool = False
    """Divide a push's learning rate by 1 + its staleness (after Zhang et al. 2016, arXiv:1511.05950)."""


class Pulled(NamedTuple):
    """A shard's parameters as they were after `version` updates."""

    version: int
    tensors: list[Tensor]


class Computed(NamedTuple):
    """What a worker found on one batch: summed loss, targets, and the norm of the summed gradient."""

    loss: float
    targets: int
    norm: float


class Shard:
    """A server's part of the parameters, with its own optimizer; `version` counts its updates."""

    def __init__(self, tensors: Sequence[Tensor], rules: Rules) -> None:
        self.held = nn.ParameterList([nn.Parameter(tensor.detach().clone()) for tensor in tensors])
        self.rules, self.version = rules, 0
        self.optimizer = adamw(self.held, rules.optimizer)
        self.waiting: dict[int, Sequence[Tensor]] = {}

    def pull(self) -> Pulled:
        """The parameters as they are now."""
        return Pulled(self.version, [parameter.detach().clone() for parameter in self.held])

    def push(self, gradients: Sequence[Tensor], version: int) -> int:
        """Step at once on gradients of the parameters of `version`; returns their staleness.

        Staleness is the number of updates in between, made on the pushes of other workers.
        """
        staleness = self.version - version
        self._step(gradients, 1 / (1 + staleness) if self.rules.slow_down else 1.0)
        return staleness

    def keep(self, worker: int, gradients: Sequence[Tensor]) -> None:
        """Lay one worker's summed gradients aside until those of all are here."""
        assert worker not in self.waiting, f"worker {worker} pushed twice in one step"
        self.waiting[worker] = gradients

    def square(self) -> float:
        """The squared norm of the sum of what was laid aside; all shards' make the global norm."""
        return sum(float(gradient.double().square().sum()) for gradient in self._sums())

    def apply(self, scale: float) -> None:
        """Step on `scale` times the sum of what was laid aside."""
        sums = self._sums()
        self.waiting = {}
        self._step([gradient * scale for gradient in sums], 1.0)

    def _sums(self) -> list[Tensor]:
        """In the workers' order, whatever that of their arrival was, so that a run can be repeated."""
        parts = [self.waiting[worker] for worker in sorted(self.waiting)]
        return [torch.stack(gradients).sum(dim=0) for gradients in zip(*parts, strict=True)]

    def _step(self, gradients: Sequence[Tensor], share: float) -> None:
        for parameter, gradient in zip(self.held, gradients, strict=True):
            parameter.grad = gradient.clone()
        rate = learning_rate_at(self.version, self.rules.updates, self.rules.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = share * rate
        self.optimizer.step()
        self.version += 1


class Worker:
    """A copy of the model that turns its share of the rows into gradients."""

    def __init__(
        self, model: nn.Module, objective: Objective, batches: Iterator[Batch], *, servers: int
    ) -> None:
        self.model, self.objective, self.batches = model, objective, batches
        self.parts = parts_of(model, servers)

    def differentiate(self, pulled: Sequence[Pulled]) -> Computed:
        """Take over the shards' tensors and work through the next batch; `gradients` then gives the result."""
        take_over(self.model, pulled)
        for parameter in (parameter for part in self.parts for parameter in part):
            parameter.grad = torch.zeros_like(parameter)
        self.model.train()
        step = self.objective(self.model, next(self.batches))
        step.loss.backward()
        norms = torch._foreach_norm([gradient for part in self.gradients() for gradient in part])
        return Computed(step.loss.item(), step.targets, torch.stack(norms).norm().item())

    def gradients(self, scale: float = 1.0) -> list[list[Tensor]]:
        """`scale` times the summed gradient, a list for each shard."""
        return [[p.grad * scale for p in part if p.grad is not None] for part in self.parts]


def share_out(sizes: Sequence[int], servers: int) -> list[int]:
    """The server of each tensor: the largest go first, each to the server that holds the least.

    >>> share_out([3, 9, 4, 2], 2)
    [1, 0, 1, 1]
    """
    owners, held = [0] * len(sizes), [0] * servers
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        owners[place] = held.index(min(held))
        held[owners[place]] += sizes[place]
    return owners


def parts_of(model: nn.Module, servers: int) -> list[list[nn.Parameter]]:
    """The trainable parameters of each server, the same for the same model; raises ConfigError for too many servers."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if servers > len(trained):
        what = f"{servers} servers and {len(trained)} tensors to hold"
        raise ConfigError(what, where="setting 'servers'")
    parts: list[list[nn.Parameter]] = [[] for _ in range(servers)]
    for parameter, owner in zip(trained, share_out([p.numel() for p in trained], servers), strict=True):
        parts[owner].append(parameter)
    return parts


def take_over(model: nn.Module, pulled: Sequence[Pulled]) -> None:
    """Give the model the parameters that all shards hold."""
    with torch.no_grad():
        for part, (_, tensors) in zip(parts_of(model, len(pulled)), pulled, strict=True):
            torch._foreach_copy_(tuple(part), tensors)
