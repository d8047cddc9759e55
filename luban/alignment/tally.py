"""Figures that come up while a step is computed, averaged over the actions they are of."""

from __future__ import annotations

from jaxtyping import Bool, Shaped
from torch import Tensor


class Tally:
    """Sums and counts by name; `means` gives them away and begins anew."""

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

    def mean(self, name: str) -> float:
        """The mean of all noted under `name`."""
        return self.sums[name] / max(1, self.counts[name])

    def means(self) -> dict[str, float]:
        """All means; nothing is noted afterwards."""
        told = {name: self.mean(name) for name in self.sums}
        self.sums, self.counts = {}, {}
        return told
