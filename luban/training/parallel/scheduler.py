"""A parameter server's order of work: who may compute, and when gradients are applied.

A crew (`crews.py`) starts a worker's turn, pull and compute, and says which turn ended next. What follows is
decided here: a step for all turns of a round, or a step for each, with a bound on how far workers drift apart.

Source: Li et al. 2014 (OSDI), figure 4: the scheduler node; Ho et al. 2013 (NIPS), section 2: stale synchronous
parallel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from luban.errors import TrainingError
from luban.training.parallel.server import Computed, Pulled


class Turn(NamedTuple):
    """A worker's finished computation, on parameters of `versions`, one per shard."""

    worker: int
    versions: list[int]
    found: Computed


class Push(NamedTuple):
    """What is told of one push: the mean loss of its rows, and how many updates its parameters were behind."""

    worker: int
    loss: float
    staleness: int


class Crew(Protocol):
    """Shards and workers, wherever they are."""

    @property
    def workers(self) -> int:
        """How many compute."""
        ...

    def start(self, worker: int) -> None:
        """Let a worker pull and compute; its turn comes out of `finished` later."""
        ...

    def finished(self) -> Turn:
        """The turn that ends next, after waiting for it."""
        ...

    def push(self, turn: Turn, scale: float) -> int:
        """Have all shards step on `scale` times the turn's gradients; returns the largest staleness they met."""
        ...

    def keep(self, turn: Turn) -> None:
        """Lay the turn's gradients aside on all shards."""
        ...

    def norm(self) -> float:
        """The norm of the sum of what was laid aside."""
        ...

    def apply(self, scale: float) -> None:
        """Have all shards step on `scale` times that sum."""
        ...

    def pull(self) -> list[Pulled]:
        """What all shards hold."""
        ...


def synchronous(crew: Crew, rounds: int, *, max_grad_norm: float) -> Iterator[Push]:
    """Rounds of one push per worker, each a step on the mean over all their targets, as all-reduce would make it.

    Raises TrainingError, before anything moves, where that is not finite.
    """
    for _ in range(rounds):
        for worker in range(crew.workers):
            crew.start(worker)
        turns = sorted(crew.finished() for _ in range(crew.workers))
        for turn in turns:
            crew.keep(turn)
        loss, targets = (sum(turn.found[place] for turn in turns) for place in (0, 1))
        crew.apply(mean_scale(Computed(loss, int(targets), crew.norm()), max_grad_norm))
        yield from (Push(turn.worker, turn.found.loss / max(1, turn.found.targets), 0) for turn in turns)


def asynchronous(
    crew: Crew, pushes: int, *, max_grad_norm: float, bound: int | None = None
) -> Iterator[Push]:
    """A step on each push as it comes; a worker waits while it is more than `bound` pushes ahead of the slowest.

    Raises TrainingError, before a push that is not finite moves anything.
    """
    clocks, started = [0] * crew.workers, 0
    idle = set(range(crew.workers))
    for _ in range(pushes):
        ready = [worker for worker in sorted(idle) if allowed(worker, clocks, bound)]
        for worker in ready[: pushes - started]:
            crew.start(worker)
            idle.remove(worker)
            started += 1
        turn = crew.finished()
        staleness = crew.push(turn, mean_scale(turn.found, max_grad_norm))
        clocks[turn.worker] += 1
        idle.add(turn.worker)
        yield Push(turn.worker, turn.found.loss / turn.found.targets, staleness)


def allowed(worker: int, clocks: Sequence[int], bound: int | None) -> bool:
    """Whether a worker may start its next turn when each has pushed as often as `clocks` say.

    >>> allowed(0, [3, 1], bound=1), allowed(1, [3, 1], bound=1), allowed(0, [3, 1], bound=None)
    (False, True, True)
    """
    return bound is None or clocks[worker] - min(clocks) <= bound


def mean_scale(found: Computed, max_grad_norm: float) -> float:
    """What makes a summed gradient the mean over its targets, no longer than `max_grad_norm`.

    Raises TrainingError where there is no target, or loss or gradient are not finite.
    """
    if found.targets == 0:
        raise TrainingError("no token of this batch is a target", where="a worker's batch")
    loss, norm = found.loss / found.targets, found.norm / found.targets
    if not (norm < float("inf") and abs(loss) < float("inf")):
        raise TrainingError(f"the loss is {loss}, its gradient norm {norm}", where="a worker's batch")
    return min(1.0, max_grad_norm / (norm + 1e-6)) / found.targets
