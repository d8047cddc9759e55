"""What a step costs: a line fitted to measured steps, by which jobs are ranked and loads simulated.

    seconds = base + row * rows + token * tokens + key * keys

`rows` are the answers worked on, `tokens` what goes through the model for them, `keys` the pairs of a new token
and one that it looks back at. Reading the weights is in `base`, arithmetic in `token`, attention in `key`.

Source: the job profiler of Wu et al. 2023, section 4.2 (arXiv:2305.05920), which looks times up in a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Load = tuple[int, int]
"""What a step does for one job: new tokens, and tokens before them."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The cost of a step, in seconds. The defaults are a small model's on two cores; `fit` makes better ones."""

    base: float = 4e-3
    """Of any step."""
    row: float = 4e-4
    """For each answer in it."""
    token: float = 3e-4
    """For each new token."""
    key: float = 2e-7
    """For each pair of a new token and one it looks at."""
    moved: float = 2e-5
    """For each page that goes to the host or comes back."""

    def step(self, loads: Iterable[Load], moved: int = 0) -> float:
        """Seconds of a step with these jobs, in which `moved` pages go out or come in."""
        return self.base + sum(self.own(*load) for load in loads) + self.moved * moved

    def own(self, new: int, before: int) -> float:
        """Seconds that a job adds to a step with `new` tokens after `before` others."""
        return self.row + self.token * new + self.key * keys_seen(new, before)

    def service(self, new: int, before: int, *, seats: int) -> float:
        """Seconds a job is charged for: its own, and its part of a full step's base."""
        return self.own(new, before) + self.base / seats

    def answer(self, pending: int, before: int, left: int, *, seats: int) -> float:
        """Seconds of service until `pending` tokens are read and `left` more are drawn."""
        first = self.service(pending, before, seats=seats) if pending else 0.0
        decoded = max(0, left - 1)
        middle = before + pending + decoded // 2
        return first + decoded * self.service(1, middle, seats=seats)


def keys_seen(new: int, before: int) -> int:
    """Pairs of query and key when `new` tokens come after `before`, each seeing itself and all earlier ones."""
    return new * before + new * (new + 1) // 2


@dataclass(frozen=True)
class Measured:
    """A step that was run: what it did, and how long it took."""

    loads: tuple[Load, ...]
    seconds: float


def fit(steps: Sequence[Measured], *, moved: float = Profile.moved) -> Profile:
    """The profile nearest to `steps`, relative to their length, none of its terms negative.

    A term that would be negative is taken to be nothing, and the others are fitted anew. Raises ValueError for
    fewer than four steps.
    """
    if len(steps) < 4:
        raise ValueError(f"{len(steps)} steps do not tell four numbers")
    rows = np.array([_features(step.loads) for step in steps])
    weighted = rows / np.array([[step.seconds] for step in steps])
    kept = list(range(rows.shape[1]))
    while True:
        # Columns of one size, or the solver would take the smallest for noise.
        scale = np.linalg.norm(weighted[:, kept], axis=0)
        scaled = np.linalg.lstsq(weighted[:, kept] / scale, np.ones(len(steps)), rcond=None)[0]
        if (scaled >= 0).all():
            break
        kept.pop(int(scaled.argmin()))
    found = [0.0] * rows.shape[1]
    for column, value in zip(kept, scaled / scale, strict=True):
        found[column] = float(value)
    base, row, token, key = found
    return Profile(base=base, row=row, token=token, key=key, moved=moved)


def errors(profile: Profile, steps: Sequence[Measured]) -> list[float]:
    """How far each step is from its prediction, as a share of what was measured."""
    return [abs(profile.step(step.loads) - step.seconds) / step.seconds for step in steps]


def _features(loads: Sequence[Load]) -> list[float]:
    return [
        1.0,
        float(len(loads)),
        float(sum(new for new, _ in loads)),
        float(sum(keys_seen(new, before) for new, before in loads)),
    ]
