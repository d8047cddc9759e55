"""Copies that share out what they hold: ZeRO stages 2 and 3, by PyTorch's FSDP2.

Between steps each process keeps its part of every weight, gradient and optimizer state. A block's weights come
together when it runs (`zero` 3), or stay together until backward has passed (`zero` 2: more memory, one gathering
less); its gradient is summed and cut as soon as it is whole, in every micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard

from luban.data.batch import Batch
from luban.training.config import OptimizerConfig, ParallelConfig
from luban.training.optim import adamw
from luban.training.parallel.copies import Asked, Summed, uses_parts
from luban.training.parallel.world import World
from luban.training.step import Gradients, Objective, Step


class Sharded:
    """See `Spread`: parts of a model, block by block.

    Source: Rajbhandari et al. 2020, sections 5.2 and 5.3 (arXiv:1910.02054); Zhao et al. 2023 (arXiv:2304.11277).
    """

    compiles = False  # FSDP2's hooks stand between the blocks

    def __init__(self, model: Any, world: World, config: ParallelConfig) -> None:
        assert world.mesh is not None
        self.model, self.world = model, world
        self.root = Asked(model)
        offloaded = CPUOffloadPolicy(pin_memory=world.mesh.device_type != "cpu")
        how: dict[str, Any] = {
            "mesh": world.mesh["dp"],
            "reshard_after_forward": config.zero == 3,
            "offload_policy": offloaded if config.offload else OffloadPolicy(),
        }
        for block in blocks(model):
            fully_shard(block, **how)
        fully_shard(self.root, **how)
        for part in self._parts():
            part.set_gradient_divide_factor(1.0)  # a sum, not a mean: the updater divides by targets
            part.set_force_sum_reduction_for_comms(True)
            part.set_reduce_scatter_unused_params(uses_parts(model))

    def asked(self, objective: Objective) -> Objective:
        """See `Spread.asked`."""

        def whole(_model: Any, batch: Batch) -> Step:
            step = Step(*self.root(objective, batch))
            for part in self._parts():  # without a backward nothing else would part them again
                part.reshard()
            return step

        return whole

    def gradients(self, objective: Objective) -> Gradients:
        """See `Spread.gradients`."""
        return Summed(self.root, objective, self.world)

    def optimizer(self, config: OptimizerConfig) -> torch.optim.Optimizer:
        """See `Spread.optimizer`."""
        return adamw(self.model, config)

    def _parts(self) -> Iterator[FSDPModule]:
        return (module for module in self.root.modules() if isinstance(module, FSDPModule))


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a model, of both sides where it has an encoder and a decoder."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name.split(".")[-1] == "blocks":
            yield from module
