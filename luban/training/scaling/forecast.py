"""How long a grid will take, tried before it starts, and told after every run."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from luban.models import hf
from luban.training.architecture import new_config
from luban.training.scaling.config import Config
from luban.training.scaling.grid import Cell, Size, new_tokens
from luban.training.trial import random_batch, updater

TRIAL_S = 0.5
RUN_S = 2.0
"""What a run takes besides training: it is scored, and written to disk."""
BAR = 20
"""Characters of the progress bar."""


def expected_seconds(
    planned: Sequence[Cell], done: Sequence[Cell], config: Config, vocab: int, place: torch.device
) -> list[float]:
    """Seconds of each planned run, by a short trial of each size that has something left to train; 0 if done."""
    waiting = [cell for cell in planned if cell not in done]
    speeds = {
        size.name: trial(size, config, vocab, place)
        for size in {cell.size.name: cell.size for cell in waiting}.values()
    }
    return [
        0.0 if cell in done else RUN_S + new_tokens(cell, planned) / speeds[cell.size.name]
        for cell in planned
    ]


def trial(size: Size, config: Config, vocab: int, place: torch.device) -> float:
    """Tokens per second of real training steps of this size, on random tokens."""
    shape = new_config(size.architecture, vocab=vocab, context=config.max_length, eos_id=0)
    tried = updater(hf.build(shape, device=place))
    rows, length = config.per_device_train_batch_size, config.max_length
    batch = random_batch(vocab, rows=rows, length=length, device=place)
    tried.update([batch], learning_rate=0.0)  # the first one makes the optimizer's state
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < TRIAL_S:
        tried.update([batch], learning_rate=0.0)
        steps += 1
    return steps * rows * length / (time.perf_counter() - begun)


@dataclass(kw_only=True)
class Progress:
    """A line on stderr per run: how many are done, how long it took, how long it will take."""

    expected: Sequence[float]
    done: int = 0
    begun: float = field(default_factory=time.monotonic)

    def announce(self) -> None:
        """Say what lies ahead."""
        left = sum(second > 0 for second in self.expected)
        print(
            f"scaling: {len(self.expected)} runs, {left} to train, about {sum(self.expected) / 60:.1f} minutes",
            file=sys.stderr,
            flush=True,
        )

    def advance(self, told: str) -> None:
        """One more run is done; the rest is expected to take as much longer than forecast as this far."""
        self.done += 1
        spent = time.monotonic() - self.begun
        forecast, ahead = sum(self.expected[: self.done]), sum(self.expected[self.done :])
        left = ahead * (spent / forecast if forecast else 1.0)
        filled = round(BAR * self.done / len(self.expected))
        bar = "━" * filled + "─" * (BAR - filled)
        print(
            f"scaling {bar} {self.done}/{len(self.expected)}  {told}  {spent / 60:.1f} min, {left / 60:.1f} min left",
            file=sys.stderr,
            flush=True,
        )
