"""The training loop, once: batches in, a trained model and its story out.

The life of a step: (1) the loader gives micro-batches, (2) the updater accumulates, averages, clips and steps,
(3) the log and the bar report, (4) at their steps: validation, checkpoint, a sample from that checkpoint.
Interrupted (Ctrl-C, SIGTERM, SIGKILL, power), the same call goes on from the last checkpoint, bit for bit.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from luban.data.loader import Loader
from luban.folder import atomic_folder
from luban.nn.linear import measure_flops
from luban.tokenizers.files import FileTokenizer
from luban.training import checkpoint
from luban.training.config import LoopConfig, OptimizerConfig
from luban.training.flops import training_flops_per_token
from luban.training.metrics import Bar, Log, save_curves
from luban.training.optim import adamw, learning_rate_at
from luban.training.step import Accumulated, Objective, Update, Updater

Validate = Callable[[], dict[str, float]]
Sample = Callable[[int, Path], str]
"""From a step and its checkpoint folder to a line worth showing; nothing if it was sampled before."""


@dataclass(kw_only=True)
class Fit:
    """One run of the loop and what it needs; `train` does it. Results of `validate` get logged as they are."""

    title: str
    out: Path
    model: Any
    tokenizer: FileTokenizer
    loader: Loader
    objective: Objective
    loop: LoopConfig
    optimizer: OptimizerConfig
    steps: int
    validate: Validate
    sample: Sample | None = None
    sample_steps: frozenset[int] = frozenset()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self.adamw = adamw(self.model, self.optimizer)
        self.updater = Updater(
            self.adamw, Accumulated(self.model, self.objective), max_grad_norm=self.optimizer.max_grad_norm
        )
        self.flops_per_token = training_flops_per_token(self.model.config, self.loop.max_length)
        self.peak_flops = measure_flops(self.device)
        self.clock = _Clock()

    def train(self) -> dict[str, float]:
        """Run (or go on) to the last step; returns the last validation's results and the mean speed."""
        first = self._resume()
        self.log = Log(self.out, resumed_at=first)
        with Bar(self.title, total=self.steps, done=first) as self.bar, stoppable() as stop:
            if first == 0:
                self._validate(0)
                if 0 in self.sample_steps:
                    self._save(0)
            elif first < self.steps:
                self.bar.say(f"{self.title}: going on after step {first} of {self.steps}")
                self._draw_sample(first)
            batches = iter(self.loader)
            for step in range(first + 1, self.steps + 1):
                self._advance(step, batches)
                if stop and step < self.steps:
                    self._save(step)
                    raise stop[0]
        return {**self._validate(self.steps), **self.clock.totals()}

    def _advance(self, step: int, batches: Iterator[Any]) -> None:
        begun = time.perf_counter()
        rate = learning_rate_at(step - 1, self.steps, self.optimizer)
        taken = [next(batches).to(self.device) for _ in range(self.loop.gradient_accumulation_steps)]
        update = self.updater.update(taken, learning_rate=rate)
        tokens = sum(batch.tokens.numel() for batch in taken)
        self.clock.count(tokens, time.perf_counter() - begun)
        self.bar.step(step)
        if step % self.loop.logging_steps == 0 or step == self.steps:
            self._report(step, update, rate)
        if self.loop.eval_steps and step % self.loop.eval_steps == 0 and step < self.steps:
            self._validate(step)
        due = self.loop.save_steps and step % self.loop.save_steps == 0
        if due or step == self.steps or step in self.sample_steps:
            self._save(step)

    def _report(self, step: int, update: Update, rate: float) -> None:
        speed = self.clock.recent()
        values = {
            "train/loss": update.loss,
            "train/grad_norm": update.grad_norm,
            "train/lr": rate,
            "train/tokens": self.clock.tokens,
            "train/tok_per_sec": round(speed, 1),
            "train/mfu": round(speed * self.flops_per_token / self.peak_flops, 4),
        }
        self.log.write(step, values)
        self.bar.report(step, values)

    def _validate(self, step: int) -> dict[str, float]:
        results = self.validate()
        self.log.write(step, results)
        self.bar.report(step, results)
        return results

    def _save(self, step: int) -> None:
        checkpoint.save(
            self.out,
            step,
            model=self.model,
            optimizer=self.adamw,
            tokenizer=self.tokenizer,
            state={"loader": self.loader.state(), "tokens": self.clock.tokens},
            limit=self.loop.save_total_limit,
        )
        self._draw_sample(step)

    def _draw_sample(self, step: int) -> None:
        """Sample from the checkpoint of `step` if one is due; `sample` says nothing about one it has."""
        newest = checkpoint.latest(self.out)
        if self.sample is None or newest is None or step not in self.sample_steps:
            return
        if told := self.sample(step, newest):
            self.bar.say(told)

    def _resume(self) -> int:
        newest = checkpoint.latest(self.out)
        if newest is None:
            return 0
        return checkpoint.load(newest, model=self.model, optimizer=self.adamw, restore=self._restore)

    def _restore(self, state: dict[str, Any]) -> None:
        self.loader.restore(state["loader"])
        self.clock.tokens = state["tokens"]


def finish_model(fit: Fit) -> Path:
    """Write `<out>/final/`, a clean model folder, and the run's curves; returns the folder."""
    with atomic_folder(fit.out / "final") as work:
        checkpoint.write_model_folder(work, fit.model, fit.tokenizer)
    save_curves(fit.out)
    return fit.out / "final"


@contextmanager
def stoppable() -> Iterator[list[BaseException]]:
    """A list that gets, on Ctrl-C or SIGTERM, what to raise once the current step is saved.

    A second Ctrl-C stops at once.
    """
    wanted: list[BaseException] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        if wanted:
            raise KeyboardInterrupt
        wanted.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(0))

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wanted
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Clock:
    """Tokens trained and the time it took, in total and since last asked; validation and saving are not in it."""

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = self.counted = 0.0
        self.last_seconds = self.last_counted = 0.0

    def count(self, tokens: int, seconds: float) -> None:
        self.tokens += tokens
        self.counted += tokens
        self.seconds += seconds

    def recent(self) -> float:
        """Tokens per second since the last call."""
        speed = (self.counted - self.last_counted) / max(1e-9, self.seconds - self.last_seconds)
        self.last_counted, self.last_seconds = self.counted, self.seconds
        return speed

    def totals(self) -> dict[str, float]:
        return {"tokens": self.tokens, "train_seconds": round(self.seconds, 2)}
