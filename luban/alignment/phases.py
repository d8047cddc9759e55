"""Where an iteration's seconds go: answering, scoring, reading, learning."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Phases:
    """Seconds by phase since last asked, and in all."""

    def __init__(self) -> None:
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
        """What the log says of the phases since the last call."""
        seconds = {f"seconds/{phase}": round(spent, 4) for phase, spent in self.recent.items()}
        self.recent = {}
        return seconds
