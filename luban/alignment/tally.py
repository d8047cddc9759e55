"""Figures that come up while a step is computed, averaged over the actions they are of."""

from __future__ import annotations

from jaxtyping import Bool, Shaped
from torch import Tensor

from luban.training.parallel.world import ALONE, World


class Tally:
    """Sums and counts by name, as the log has it; `means` gives them away and begins anew."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(
        self, name: str, each: Shaped[Tensor, "batch actions"], there: Bool[Tensor, "batch actions"]
    ) -> None:
        """Note `each` where it is `there`."""
        chosen = each.detach()[there]
        self.sums[name] = self.sums.get(name, 0.0) + float(chosen.sum())
        self.counts[name] = self.counts.get(name, 0) + chosen.numel()

    def means(self, world: World = ALONE) -> dict[str, float]:
        """All means, over what every process of `world` noted; nothing is noted afterwards."""
        names = sorted(self.sums)
        sums = world.total(*(self.sums[name] for name in names))
        counts = world.total(*(self.counts[name] for name in names))
        told = {name: one / max(1, count) for name, one, count in zip(names, sums, counts, strict=True)}
        self.sums, self.counts = {}, {}
        return told
