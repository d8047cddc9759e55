"""The training loop, once: batches in, a trained model and its story out.

The life of a step: (1) the loader gives micro-batches, (2) the updater accumulates, averages, clips and steps,
unless the guard finds the batch bad, (3) the log and the bar report, (4) at their steps: validation, which may
be the best or the last one, checkpoint, a sample from that checkpoint.
Interrupted (Ctrl-C, SIGTERM, SIGKILL, power), the same call goes on from the last checkpoint, bit for bit.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from luban.data.loader import Loader
from luban.errors import CheckpointError, TrainingError
from luban.folder import atomic_folder
from luban.nn.linear import measure_flops
from luban.tokenizers.files import FileTokenizer
from luban.training import checkpoint
from luban.training.best import Best
from luban.training.config import LoopConfig, OptimizerConfig
from luban.training.flops import training_flops_per_token
from luban.training.guard import Guard, SkippedFile
from luban.training.learner import Learner, Whole
from luban.training.metrics import Bar, Log, Silent, save_curves
from luban.training.optim import learning_rate_at
from luban.training.parallel.spread import Spread, Undivided
from luban.training.parallel.whole import gathered
from luban.training.parallel.world import ALONE, World
from luban.training.precision import Scaler, computing_in, in_precision, precision_named
from luban.training.recompute import recompute_blocks
from luban.training.step import OVERFLOW, Measured, Objective, Update, Updater
from luban.training.trackers import Trackers
from luban.training.usage import Usage, memory_mb, waiting_share

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
    learner: Learner = field(default_factory=Whole)
    """What of `model` is trained."""
    sample: Sample | None = None
    sample_steps: frozenset[int] = frozenset()
    world: World = ALONE
    spread: Spread | None = None
    """`model` as the processes of `world` hold it; None where this one has it all."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        if self.loop.gradient_checkpointing:
            recompute_blocks(self.model)
        self.dtype = precision_named(self.loop.precision, self.device)
        self.spread = self.spread or Undivided(self.model)
        self.adamw = self.spread.optimizer(self.optimizer)
        self.guard = Guard(self.loop.guard)
        self.scaler = Scaler() if self.dtype == torch.float16 else None
        asked = in_precision(self.learner.objective(self.objective), self.dtype, self.device)
        self.updater = Updater(
            self.adamw,
            self.learner.gradients(self.spread.gradients(asked)),
            max_grad_norm=self.optimizer.max_grad_norm,
            guard=self.guard,
            scaler=self.scaler,
        )
        self.best = Best(self.loop.metric_for_best, patience=self.loop.patience)
        self.results: dict[str, float] = {}
        """Of the newest validation."""
        self.flops_per_token = training_flops_per_token(self.model.config, self.loop.max_length)
        self.peak_flops = measure_flops(self.device)
        self.usage = Usage()
        self.trackers = Trackers(self.loop.report_to if self.world.main else (), self.out)

    def train(self) -> dict[str, float]:
        """Run (or go on) to the last step; returns the last validation's results, or the best one's, and the costs.

        With `loop.load_best` the model holds the best checkpoint's weights afterwards.
        """
        self._begin()
        first = self._resume()
        if self.world.main:
            self.log = Log(self.out, resumed_at=first, trackers=self.trackers)
            self.bar = Bar(self.title, total=self.steps, done=first)
            self.skipped = SkippedFile(self.out, resumed_at=first)
        else:
            self.log = self.bar = self.skipped = Silent()
        with self.log, self.bar, stoppable(alone=self.world.size == 1) as stop:
            if first == 0:
                self._validate(0)
                if 0 in self.sample_steps:
                    self._save(0)
            elif first < self.steps:
                self.bar.say(f"{self.title}: going on after step {first} of {self.steps}")
                self._draw_sample(first)
            last = self._advance_all(first, stop)
            if self.world.main:
                self.trackers.image(save_curves(self.out))
        ended = {"ended_at": last} if last < self.steps else {}
        return {**self._chosen_results(), **self.usage.totals(), **self._counts(), **ended}

    def _advance_all(self, step: int, stop: list[int]) -> int:
        """All steps after `step`; returns the last one, which may come early."""
        batches = iter(self.loader)
        while step < self.steps and not self.best.exhausted:
            step += 1
            self._advance(step, batches)
            # Signals reach processes between different steps; all of them end after this one.
            signalled = self.world.most(stop[0] if stop else 0)
            if signalled and step < self.steps:
                self._save(step)
                raise KeyboardInterrupt if signalled == signal.SIGINT else SystemExit(0)
        if self.best.exhausted and step < self.steps:
            self.bar.say(f"{self.title}: ended at step {step}, {self.best.since} evaluations were no better")
        return step

    def _advance(self, step: int, batches: Iterator[Any]) -> None:
        rate = learning_rate_at(step - 1, self.steps, self.optimizer)
        rate *= self.learner.rate_factor(step, self.steps)
        with self.usage.during("loading"):
            taken = [next(batches).to(self.device) for _ in range(self.loop.gradient_accumulation_steps)]
        with self.usage.during("learning"):
            update = self._update(step, taken, rate)
            if not update.fault:
                self.learner.after_step(step, self.steps, self.adamw)
        self.usage.count(sum(batch.tokens.numel() for batch in taken) * self.world.dp)
        self.bar.step(step)
        if step % self.loop.logging_steps == 0 or step == self.steps:
            self._report(step, update, rate)
        is_best = False
        if step == self.steps or (self.loop.eval_steps and step % self.loop.eval_steps == 0):
            is_best = self._validate(step)
        due = self.loop.save_steps and step % self.loop.save_steps == 0
        if due or is_best or self.best.exhausted or step == self.steps or step in self.sample_steps:
            self._save(step)

    def _update(self, step: int, batches: list[Any], rate: float) -> Update:
        """One optimizer step, or none if its batch is bad; raises TrainingError that says how to go on."""
        try:
            update = self.updater.update(batches, learning_rate=rate)
        except TrainingError as error:
            newest = checkpoint.latest(self.out)
            back = "there is no checkpoint yet" if newest is None else f"the last checkpoint is {newest}"
            hint = f"{error.hint}; {back}" if error.hint else back
            # All processes are here: what an update decides by is the same on all of them.
            documents = "; ".join(self.world.everyones([str(error.where)]))
            raise TrainingError(error.what, where=f"step {step}, {documents}", hint=hint) from None
        if update.fault and update.fault != OVERFLOW:
            documents = self.world.everyones([str(origin) for batch in batches for origin in batch.ids])
            self.skipped.write(step, update.fault, update.loss, documents)
            self.bar.say(f"step {step} skipped: {update.fault}")
        return update

    def _report(self, step: int, update: Update, rate: float) -> None:
        speed, seconds = self.usage.recent()
        values = {
            "train/loss": update.loss,
            "train/grad_norm": update.grad_norm,
            "train/lr": rate,
            "train/tokens": self.usage.tokens,
            "train/tok_per_sec": round(speed, 1),
            "train/mfu": round(speed * self.flops_per_token / self.peak_flops / self.world.size, 4),
            "train/memory_mb": memory_mb(self.device),
            "train/wait": waiting_share(seconds),
            **{f"train/seconds_{phase}": round(spent, 4) for phase, spent in seconds.items()},
            **(self.updater.gradients.figures() if isinstance(self.updater.gradients, Measured) else {}),
            **self._counts(),
        }
        self.log.write(step, values)
        self.bar.report(step, values)

    def _counts(self) -> dict[str, float]:
        """What did not go into the model, and why."""
        counts = self.loader.counts
        scaler = (
            {}
            if self.scaler is None
            else {"train/loss_scale": self.scaler.scale, "train/overflows": self.scaler.skipped}
        )
        return {
            "data/dropped": counts.dropped,
            "data/truncated": counts.truncated,
            "data/truncated_targets": counts.truncated_targets,
            "data/padding": counts.padding,
            "train/skipped": self.guard.skipped,
            **scaler,
        }

    def _validate(self, step: int) -> bool:
        """Validate, log and keep the results; True if they are the best until now."""
        with self.usage.during("evaluating"), computing_in(self.dtype, self.device):
            self.results = self.validate()
        self.log.write(step, self.results)
        self.bar.report(step, self.results)
        return self.best.improves(step, self.results)

    def _chosen_results(self) -> dict[str, Any]:
        """The results of the model that is left: the last one, or with `load_best` the best, which is loaded."""
        best = {} if self.best.step is None else {"best_step": self.best.step}
        if not self.loop.load_best or self.best.step is None:
            return {**self.results, **best}
        self.learner.read(checkpoint.at(self.out, self.best.step), self.model)
        return {**self.best.results, **best}

    def _save(self, step: int) -> None:
        with self.usage.during("saving"):
            checkpoint.save(
                self.out,
                step,
                model=self.model,
                optimizer=self.adamw,
                tokenizer=self.tokenizer,
                learner=self.learner,
                state=self._state(),
                limit=self.loop.save_total_limit,
                best=self.best.step,
                world=self.world,
            )
        self._draw_sample(step)

    def _draw_sample(self, step: int) -> None:
        """Sample from the checkpoint of `step` if one is due; `sample` says nothing about one it has."""
        newest = checkpoint.latest(self.out)
        if self.sample is None or newest is None or step not in self.sample_steps or not self.world.main:
            return
        if told := self.sample(step, newest):
            self.bar.say(told)

    def _resume(self) -> int:
        newest = checkpoint.latest(self.out)
        if newest is None:
            return 0
        return checkpoint.load(
            newest,
            model=self.model,
            optimizer=self.adamw,
            learner=self.learner,
            restore=self._restore,
            world=self.world,
        )

    def _begin(self) -> None:
        """Let the learner see data before step 1, the same on a resume."""
        with contextlib.closing(self._first_batches()) as batches:
            self.learner.begin(batches, self.objective)

    def _first_batches(self) -> Generator[Any, None, None]:
        """The first copy's first batches, whichever copy asks, so that all choose alike; the loader does not move."""
        before, rank = self.loader.state(), self.loader.rank
        self.loader.rank = 0
        try:
            for batch in self.loader:
                yield batch.to(self.device)
        finally:
            self.loader.rank = rank
            self.loader.restore(before)

    @property
    def _rows(self) -> int:
        """Rows of a step, over all processes: the same in every layout of a run."""
        here = self.loop.per_device_train_batch_size * self.loop.gradient_accumulation_steps
        return here * self.world.dp

    def _state(self) -> dict[str, Any]:
        return {
            "loader": self.loader.state(),
            "rows": self._rows,
            "tokens": self.usage.tokens,
            "results": self.results,
            "guard": self.guard.state(),
            "best": self.best.state(),
            "scaler": self.scaler.state() if self.scaler else None,
            "learner": self.learner.state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        if (rows := state.get("rows", self._rows)) != self._rows:
            hint = "per_device_train_batch_size x gradient_accumulation_steps x dp stays the same"
            raise CheckpointError(
                f"a step of this run has {rows} rows, now {self._rows}", where=self.out, hint=hint
            )
        self.loader.restore(state["loader"])
        self.usage.tokens = state["tokens"]
        self.results = state["results"]
        self.guard.restore(state["guard"])
        self.best.restore(state["best"])
        if self.scaler:
            self.scaler.restore(state["scaler"])
        self.learner.restore(state.get("learner", {}))


def finish_model(fit: Fit) -> Path:
    """Write `<out>/final/`, a clean model folder; returns it. All processes of a run call this."""
    whole = gathered(fit.model, fit.world)
    if fit.world.main:
        with atomic_folder(fit.out / "final") as work:
            fit.learner.finish(work, whole, fit.tokenizer)
    fit.world.wait()
    return fit.out / "final"


@contextmanager
def stoppable(*, alone: bool = True) -> Iterator[list[int]]:
    """A list that gets the signal, Ctrl-C or SIGTERM, on which the run is to save and end after the current step.

    A second one stops at once where this process is `alone`; torchrun sends two where a terminal sends one.
    """
    wanted: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        if wanted and alone:
            raise KeyboardInterrupt
        wanted.append(number)

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wanted
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
