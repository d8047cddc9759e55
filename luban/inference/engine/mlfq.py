"""Skip-join multi-level feedback queue: short answers overtake long ones without anyone knowing which is which.

Each level has a quantum of service, twice that of the level before. A job enters at the first level whose
quantum covers its first iteration, which the profile predicts from the prompt's length, and skips those above:
there it would only be demoted at once. Whoever has used up a level's quantum goes to the end of the next level.
Whoever was not served for long rises to the first level again. Service is counted, not time on the clock.

Source: Wu et al. 2023, section 4.2, algorithm 1 (arXiv:2305.05920). There jobs rise after a fixed time, which under
overload lifts everybody and undoes the order; here the patience grows with the number of jobs for each seat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luban.inference.engine.job import Job
from luban.inference.engine.profile import Profile

LEVELS = 12
FIRST_TOKENS = 128
"""Decoded tokens that the first level's quantum is worth: most answers end within it and are never set aside."""


@dataclass
class Standing:
    """Where a job stands: its level, what it used of the level's quantum, when it was last served."""

    level: int
    used: float
    seen: float


class FeedbackQueue:
    """Jobs by level and, within one, by when they came to it; see `scheduler.Policy`."""

    def __init__(self, profile: Profile, *, seats: int, quantum: float = 0.0, patience: float = 60.0) -> None:
        """`quantum`: seconds of service in the first level; 0 takes what `FIRST_TOKENS` cost. `patience`: seconds
        without service, times jobs per seat, after which a job rises."""
        self.profile, self.seats, self.patience = profile, seats, patience
        first = quantum or FIRST_TOKENS * profile.service(1, 0, seats=seats)
        self.quanta = [first * 2**level for level in range(LEVELS)]
        self._levels: list[dict[Job, None]] = [{} for _ in self.quanta]
        self._standing: dict[Job, Standing] = {}

    def add(self, job: Job, now: float) -> None:
        """Into the first level that the job's first iteration fits into."""
        first = self.profile.service(job.pending, job.computed, seats=self.seats)
        level = next((n for n, quantum in enumerate(self.quanta) if first <= quantum), LEVELS - 1)
        self._standing[job] = Standing(level, 0.0, now)
        self._levels[level][job] = None

    def remove(self, job: Job) -> None:
        """Forget the job."""
        del self._levels[self._standing.pop(job).level][job]

    def order(self, now: float) -> Sequence[Job]:
        """Level by level, each from its beginning; first those rise that have waited too long."""
        limit = self.patience * max(1.0, len(self._standing) / self.seats)
        for job, standing in self._standing.items():
            if standing.level and now - standing.seen > limit:
                self._move(job, 0)
                standing.seen = now
        return [job for level in self._levels for job in level]

    def served(self, job: Job, new: int, now: float) -> None:
        """Charge the service; who has used up the quantum is demoted."""
        standing = self._standing[job]
        standing.seen = now
        standing.used += self.profile.service(new, job.computed, seats=self.seats)
        if standing.used >= self.quanta[standing.level] and standing.level < LEVELS - 1:
            self._move(job, standing.level + 1)

    def level(self, job: Job) -> int:
        """The job's level, 0 being served first."""
        return self._standing[job].level

    def _move(self, job: Job, level: int) -> None:
        standing = self._standing[job]
        del self._levels[standing.level][job]
        standing.level, standing.used = level, 0.0
        self._levels[level][job] = None
