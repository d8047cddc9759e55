"""Models whose layers are shared out (tensor parallelism), and copies of such models: gradients and optimizer.

Copies add their gradients in one message at the end of a step. (DDP, which sends them while backward runs, knows no
DTensors; FSDP2 does, see `sharded.py`.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from luban.data.batch import Batch
from luban.training.config import OptimizerConfig
from luban.training.optim import adamw
from luban.training.parallel.norms import global_norm, local
from luban.training.parallel.world import World
from luban.training.step import Accumulated, Gradients, Objective, Sums


class Divided:
    """See `Spread`: layers shared out over `tp`, and as many copies as `dp`."""

    compiles = True  # sums between processes are a part of the graph

    def __init__(self, model: Any, world: World) -> None:
        """`model` has been `split`."""
        self.model, self.world = model, world

    def asked(self, objective: Objective) -> Objective:
        """See `Spread.asked`."""
        return objective

    def gradients(self, objective: Objective) -> Gradients:
        """See `Spread.gradients`."""
        return DividedGradients(self.model, objective, self.world)

    def optimizer(self, config: OptimizerConfig) -> torch.optim.Optimizer:
        """See `Spread.optimizer`."""
        return adamw(self.model, config)


class DividedGradients:
    """The gradients of a model that has been `split`; those who share its layers read the same rows."""

    def __init__(self, model: nn.Module, objective: Objective, world: World) -> None:
        self.own, self.world = Accumulated(model, objective), world
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def sum(self, batches: Sequence[Batch], *, scale: float = 1.0) -> Sums:
        """See `Gradients.sum`."""
        loss, targets = self.world.total(*self.own.sum(batches, scale=scale))
        add_copies(self.parameters, self.world)
        return Sums(loss, int(targets))

    def norm(self) -> float:
        """See `Gradients.norm`."""
        return global_norm(self.parameters, self.world)


def add_copies(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Make each gradient the sum over all copies of the model, in one message; none counts as zeros."""
    if world.dp == 1:
        return
    gradients = []
    for parameter in parameters:
        if (
            parameter.grad is None
        ):  # an expert that no token of this copy went to, but perhaps one of another's
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(local(parameter.grad))
    message = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(message, group=world.group("dp"))
    sizes = [gradient.numel() for gradient in gradients]
    torch._foreach_copy_(
        gradients, [m.view_as(g) for m, g in zip(message.split(sizes), gradients, strict=True)]
    )
