"""First come, first served: who came first keeps a seat until finished. A long answer holds up all behind it."""

from __future__ import annotations

from collections.abc import Sequence

from luban.inference.engine.job import Job


class FirstCome:
    """Jobs in the order of their arrival; see `scheduler.Policy`."""

    def __init__(self) -> None:
        self._jobs: dict[Job, None] = {}

    def add(self, job: Job, now: float) -> None:  # noqa: ARG002 - the protocol's
        """Behind all others."""
        self._jobs[job] = None

    def remove(self, job: Job) -> None:
        """Forget the job."""
        del self._jobs[job]

    def order(self, now: float) -> Sequence[Job]:  # noqa: ARG002 - the protocol's
        """As they came."""
        return list(self._jobs)

    def served(self, job: Job, new: int, now: float) -> None:
        """Nothing changes."""
