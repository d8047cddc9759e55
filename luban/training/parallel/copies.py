"""Copies of one model, each with its share of the rows: data parallelism, by PyTorch's DDP.

DDP adds up the gradients of all copies while backward still runs. `zero` 1 also shares the optimizer's state out
among the copies (ZeRO stage 1): each moves its share of the parameters and sends them to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from luban.data.batch import Batch
from luban.models import FAMILIES
from luban.nn.moe import MoE
from luban.training.config import OptimizerConfig, ParallelConfig
from luban.training.optim import adamw
from luban.training.parallel.norms import global_norm
from luban.training.parallel.world import World
from luban.training.step import Gradients, Objective, Sums


class Asked(nn.Module):
    """Model and objective as one module, so that hooks on its forward see all that an objective does with it.

    Objectives call `model.hidden` and read `model.head.weight`; neither passes through the model's own forward.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, objective: Objective, batch: Batch) -> tuple[Tensor, int]:
        """The objective's summed loss, and over how many targets."""
        step = objective(self.model, batch)
        return step.loss, step.targets


class Copied:
    """See `Spread`: whole copies of a model."""

    compiles = True

    def __init__(self, model: Any, world: World, config: ParallelConfig) -> None:
        self.model, self.world, self.config = model, world, config
        self.ddp = DistributedDataParallel(
            Asked(model),
            process_group=world.group("dp"),
            gradient_as_bucket_view=True,  # else gradients would be held twice
            find_unused_parameters=uses_parts(model),
        )
        self.figures: Callable[[], dict[str, float]] = dict
        if config.compress != "none":
            from luban.training.parallel.compression import hook, sent

            state, told = hook(config.compress, world)
            self.ddp.register_comm_hook(state, told)
            self.figures = lambda: {"train/sent_bytes": sent(state)}

    def asked(self, objective: Objective) -> Objective:
        """See `Spread.asked`."""
        return objective

    def gradients(self, objective: Objective) -> Gradients:
        """See `Spread.gradients`."""
        copies = float(self.world.dp)  # DDP averages over the copies
        return Summed(
            self.ddp, objective, self.world, factor=copies, unsent=self.ddp.no_sync, figures=self.figures
        )

    def optimizer(self, config: OptimizerConfig) -> torch.optim.Optimizer:
        """See `Spread.optimizer`."""
        return optimizer_of_copies(self.model, config, self.world, zero=self.config.zero)


def optimizer_of_copies(
    model: Any, config: OptimizerConfig, world: World, *, zero: int
) -> torch.optim.Optimizer:
    """AdamW for a copy; with `zero` 1 each copy keeps the state of its share of the parameters.

    Source: Rajbhandari et al. 2020, section 5.1 (arXiv:1910.02054).
    """
    if zero == 0 or world.dp == 1:
        return adamw(model, config)
    from torch.distributed.optim import ZeroRedundancyOptimizer

    kind = partial(
        ZeroRedundancyOptimizer, optimizer_class=torch.optim.AdamW, process_group=world.group("dp")
    )
    return adamw(model, config, kind=kind)


class Summed:
    """The gradients of processes that each read their own rows, added up as backward goes."""

    def __init__(
        self,
        root: nn.Module,
        objective: Objective,
        world: World,
        *,
        factor: float = 1.0,
        unsent: Callable[[], AbstractContextManager[Any]] = nullcontext,
        figures: Callable[[], dict[str, float]] = dict,
    ) -> None:
        """`root` takes what `Asked` does and sums as backward goes; in `unsent` gradients stay here.

        They do in all micro-batches but the last.
        """
        self.root, self.objective, self.world = root, objective, world
        self.factor, self.unsent, self.figures = factor, unsent, figures

    def sum(self, batches: Sequence[Batch], *, scale: float = 1.0) -> Sums:
        """See `Gradients.sum`."""
        self.root.train()
        loss, targets = 0.0, 0
        for left, batch in zip(reversed(range(len(batches))), batches, strict=True):
            with self.unsent() if left else nullcontext():
                here, count = self.root(self.objective, batch)
                (here * (scale * self.factor)).backward()
            loss, targets = loss + here.item(), targets + count
        loss, counted = self.world.total(loss, targets)
        return Sums(loss, int(counted))

    def norm(self) -> float:
        """See `Gradients.norm`."""
        return global_norm(self.root.parameters(), self.world)


def uses_parts(model: Any) -> bool:
    """Whether a pass may leave parameters without gradient: experts that no token went to, heads not asked."""
    kind = FAMILIES[model.config.model_type].kind
    return kind != "causal" or any(isinstance(module, MoE) for module in model.modules())
