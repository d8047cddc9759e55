"""What a run uses: tokens, seconds by what they were spent on, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

Phase = Literal["loading", "learning", "evaluating", "saving"]


class Usage:
    """Tokens trained and seconds of each phase, in total and since last asked."""

    def __init__(self) -> None:
        self.tokens = 0
        """Of the whole run, also before it was interrupted; the rest counts from there."""
        self._counted = self._counted_before = 0
        self._seconds: dict[str, float] = defaultdict(float)
        self._seconds_before: dict[str, float] = {}

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Count the seconds of the block as `phase`."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - begun

    def count(self, tokens: int) -> None:
        """Note `tokens` as trained."""
        self.tokens += tokens
        self._counted += tokens

    def recent(self) -> tuple[float, dict[str, float]]:
        """Tokens per second of training, and seconds by phase, both since the last call."""
        spent = {phase: now - self._seconds_before.get(phase, 0.0) for phase, now in self._seconds.items()}
        speed = (self._counted - self._counted_before) / max(1e-9, _training(spent))
        self._counted_before, self._seconds_before = self._counted, dict(self._seconds)
        return speed, spent

    def totals(self) -> dict[str, float]:
        """What the run's results say: its tokens, the seconds they took, and the share of waiting for batches."""
        training = _training(self._seconds)
        return {
            "tokens": self.tokens,
            "train_seconds": round(training, 2),
            "train/wait": waiting_share(self._seconds),
        }


def waiting_share(seconds: dict[str, float]) -> float:
    """How much of the training time went to waiting for batches."""
    return round(seconds.get("loading", 0.0) / max(1e-9, _training(seconds)), 5)


def _training(seconds: dict[str, float]) -> float:
    """Validation and saving are not training."""
    return seconds.get("loading", 0.0) + seconds.get("learning", 0.0)


def memory_mb(device: torch.device) -> float:
    """Megabytes in use now: of the accelerator's memory, or of this process's (its peak, where only that is told)."""
    if device.type == "cuda":
        return round(torch.cuda.memory_reserved(device) / 1e6, 1)
    if sys.platform.startswith("linux"):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return round(pages * resource.getpagesize() / 1e6, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)
