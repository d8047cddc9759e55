"""Shortest remaining time first: the least mean completion time there is, if the future were known.

How long an answer will be is known only to an oracle. A simulation has one, so this is the bound that other
policies are held against; where requests state `max_tokens` near the truth, it is a policy to use.

Source: Schrage 1968, "A Proof of the Optimality of the Shortest Remaining Processing Time Discipline".
"""

from __future__ import annotations

from collections.abc import Sequence

from luban.inference.engine.job import Job
from luban.inference.engine.profile import Profile


class ShortestRemaining:
    """Jobs by the seconds of service they still need, by `profile` and each job's `expected` tokens."""

    def __init__(self, profile: Profile, *, seats: int) -> None:
        self.profile, self.seats = profile, seats
        self._remaining: dict[Job, float] = {}

    def add(self, job: Job, now: float) -> None:  # noqa: ARG002 - the protocol's
        """Ranked by all its work."""
        self._remaining[job] = self._seconds(job, 0)

    def remove(self, job: Job) -> None:
        """Forget the job."""
        del self._remaining[job]

    def order(self, now: float) -> Sequence[Job]:  # noqa: ARG002 - the protocol's
        """The nearest to its end first; those that tie in the order of arrival."""
        return sorted(self._remaining, key=self._remaining.__getitem__)

    def served(self, job: Job, new: int, now: float) -> None:  # noqa: ARG002 - the protocol's
        """Less remains."""
        self._remaining[job] = self._seconds(job, new)

    def _seconds(self, job: Job, new: int) -> float:
        pending = max(0, job.pending - new)
        return self.profile.answer(pending, job.computed + new, job.left, seats=self.seats)
