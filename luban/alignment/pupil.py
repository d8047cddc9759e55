"""A model with its objective and optimizer, as one iteration after another teaches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from luban.alignment.config import RoundsConfig
from luban.alignment.experience import Experience
from luban.alignment.tally import Tally
from luban.training.config import OptimizerConfig
from luban.training.guard import Guard
from luban.training.learner import Learner, Whole
from luban.training.optim import learning_rate_at
from luban.training.parallel.spread import Spread
from luban.training.step import Step, Updater


class Noting(Protocol):
    """An objective over experience that notes figures while it computes."""

    @property
    def tally(self) -> Tally: ...

    def __call__(self, model: Any, batch: Any) -> Step: ...


class Pupil:
    """A model that `update` teaches; its figures bear its `name`."""

    def __init__(
        self,
        name: str,
        spread: Spread,
        objective: Noting,
        config: OptimizerConfig,
        *,
        loop: RoundsConfig,
        learner: Learner | None = None,
    ) -> None:
        """`loop.max_steps` are the iterations over which the learning rate goes its way."""
        self.name, self.tally, self.config, self.loop = name, objective.tally, config, loop
        self.learner = learner or Whole()
        self.optimizer = spread.optimizer(config)
        self.guard = Guard(loop.guard)
        self.updater = Updater(
            self.optimizer,
            self.learner.gradients(spread.gradients(self.learner.objective(objective))),
            max_grad_norm=config.max_grad_norm,
            guard=self.guard,
        )

    def update(self, batch: Experience, *, step: int) -> dict[str, float]:
        """One optimizer step in iteration `step` (from 1); returns its loss, its norm and what was noted."""
        rows, steps = self.loop.per_device_train_batch_size, self.loop.max_steps
        rate = learning_rate_at(step - 1, steps, self.config) * self.learner.rate_factor(step, steps)
        parts: list[Any] = [
            batch.select(range(at, min(at + rows, len(batch)))) for at in range(0, len(batch), rows)
        ]
        update = self.updater.update(parts, learning_rate=rate)
        told = {f"{self.name}/loss": update.loss, f"{self.name}/grad_norm": update.grad_norm}
        return {**told, **{f"{self.name}/{figure}": mean for figure, mean in self.tally.means().items()}}

    def end(self, step: int) -> None:
        """Do what the learner wants done after iteration `step`."""
        self.learner.after_step(step, self.loop.max_steps, self.optimizer)

    def state(self) -> dict[str, Any]:
        """What an exact resume needs beside the weights."""
        guard, learner = self.guard.state(), self.learner.state()
        return {"optimizer": self.optimizer.state_dict(), "guard": guard, "learner": learner}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.learner.restore(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.guard.restore(state["guard"])


def learn(
    experience: Experience, pupils: Sequence[Pupil], *, step: int, loop: RoundsConfig, stop_kl: float = 0.0
) -> dict[str, float]:
    """Teach all pupils for an iteration's epochs; returns the mean figures, steps taken, and steps left out until now.

    Where the policy has moved more than `stop_kl` nats a token from the one that answered, the rest is left out.
    """
    told: list[dict[str, float]] = []
    for batch in _minibatches(experience, loop):
        figures: dict[str, float] = {}
        for pupil in pupils:
            figures |= pupil.update(batch, step=step)
        told.append(figures)
        if stop_kl and figures.get("policy/moved", 0.0) > stop_kl:
            break
    for pupil in pupils:
        pupil.end(step)
    means = {
        name: sum(figures[name] for figures in told) / len(told) for figures in told[:1] for name in figures
    }
    skipped = {f"{pupil.name}/skipped": float(pupil.guard.skipped) for pupil in pupils}
    return {**means, **skipped, "policy/steps": float(len(told))}


def _minibatches(experience: Experience, loop: RoundsConfig) -> list[Experience]:
    """Each epoch's rows in an order of its own, `loop.minibatch` at a time; none where there are no rows."""
    size = loop.minibatch or len(experience)
    orders = [torch.randperm(len(experience)).tolist() for _ in range(loop.epochs if len(experience) else 0)]
    return [experience.select(order[at : at + size]) for order in orders for at in range(0, len(order), size)]
