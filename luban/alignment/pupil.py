"""A model with its objective and optimizer, as one iteration after another teaches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from luban.alignment.config import RoundsConfig
from luban.alignment.experience import Experience
from luban.alignment.shares import passes
from luban.alignment.tally import Tally
from luban.errors import TrainingError
from luban.training.config import OptimizerConfig
from luban.training.guard import Guard
from luban.training.learner import Learner, Whole
from luban.training.optim import learning_rate_at
from luban.training.parallel.spread import Spread
from luban.training.parallel.world import ALONE, World
from luban.training.step import Step, Update, Updater

ORDER = 2
"""Tells the stream of random numbers that shuffles answers from the one that draws them (`rollout.DRAWN`)."""


class Noting(Protocol):
    """An objective over experience that notes figures while it computes."""

    @property
    def tally(self) -> Tally: ...

    def __call__(self, model: Any, batch: Any) -> Step: ...


class Pupil:
    """A model that `update` teaches; its loss and norm bear its `name`, what its objective notes a name of its own."""

    def __init__(
        self,
        name: str,
        spread: Spread,
        objective: Noting,
        config: OptimizerConfig,
        *,
        loop: RoundsConfig,
        learner: Learner | None = None,
        world: World = ALONE,
    ) -> None:
        """`loop.max_steps` are the iterations over which the learning rate goes its way."""
        self.model, self.world = spread.model, world
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
        """One optimizer step in iteration `step` (from 1); returns its loss, its norm and what was noted.

        Every process brings the same `batch`, and computes its share of it.
        """
        rows, steps = self.loop.per_device_train_batch_size, self.loop.max_steps
        rate = learning_rate_at(step - 1, steps, self.config) * self.learner.rate_factor(step, steps)
        update = self._updated(passes(batch, rows=rows, world=self.world), rate)
        told = {f"{self.name}/loss": update.loss, f"{self.name}/grad_norm": update.grad_norm}
        return {**told, **self.tally.means(self.world)}

    def _updated(self, parts: list[Any], rate: float) -> Update:
        """The update on everyone's `parts`; a TrainingError names everyone's rows."""
        try:
            return self.updater.update(parts, learning_rate=rate)
        except TrainingError as error:
            where = "; ".join(self.world.everyones([str(error.where)]))  # all are here: they decide alike
            raise TrainingError(error.what, where=where, hint=error.hint) from None

    def end(self, step: int) -> None:
        """Do what the learner wants done after iteration `step`."""
        self.learner.after_step(step, self.loop.max_steps, self.optimizer)

    def state(self) -> dict[str, Any]:
        """What an exact resume needs beside weights and optimizer."""
        return {"guard": self.guard.state(), "learner": self.learner.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; called before weights and optimizer are."""
        self.learner.restore(state["learner"])
        self.guard.restore(state["guard"])


def learn(
    experience: Experience,
    pupils: Sequence[Pupil],
    *,
    step: int,
    loop: RoundsConfig,
    seed: int = 0,
    stop_kl: float = 0.0,
) -> dict[str, float]:
    """Teach all pupils for an iteration's epochs; returns the mean figures, steps taken, and steps left out until now.

    Where the policy has moved more than `stop_kl` nats a token from the one that answered, the rest is left out.
    """
    told: list[dict[str, float]] = []
    for batch in _minibatches(experience, loop, np.random.default_rng((seed, step, ORDER))):
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


def _minibatches(experience: Experience, loop: RoundsConfig, stream: np.random.Generator) -> list[Experience]:
    """Each epoch's rows in an order of its own, `loop.minibatch` at a time; none where there are no rows."""
    size = loop.minibatch or len(experience)
    orders = [
        stream.permutation(len(experience)).tolist() for _ in range(loop.epochs if len(experience) else 0)
    ]
    return [experience.select(order[at : at + size]) for order in orders for at in range(0, len(order), size)]
