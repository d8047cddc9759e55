"""Where an iteration's seconds go: answering, scoring, reading, learning; of several processes the slowest one's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from luban.training.parallel.world import ALONE, World


class Phases:
    """Seconds by phase since last asked, and in all."""

    def __init__(self, world: World = ALONE) -> None:
        self.world = world
        self.recent: dict[str, float] = {}
        self.totals: dict[str, float] = {}

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count the block's seconds as `phase`."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begun
            self.recent[phase] = self.recent.get(phase, 0.0) + spent
            self.totals[phase] = self.totals.get(phase, 0.0) + spent

    def told(self) -> dict[str, float]:
        """What the log says of the phases since the last call; all processes call this together."""
        recent, self.recent = self.recent, {}
        return self._slowest(recent, digits=4)

    def in_all(self) -> dict[str, float]:
        """The same of the whole run."""
        return self._slowest(self.totals, digits=2)

    def _slowest(self, seconds: dict[str, float], *, digits: int) -> dict[str, float]:
        everyones = self.world.everyones([seconds])
        return {f"seconds/{phase}": round(max(one[phase] for one in everyones), digits) for phase in seconds}
