"""Which evaluation of a run was the best, and whether it still gets better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from luban.errors import ConfigError, nearest

HIGHER_IS_BETTER = ("val/accuracy", "val/macro_f1")


class Best:
    """The best value of `metric` so far, mostly the lowest; with the metric `none` it never says anything."""

    def __init__(self, metric: str, *, patience: int) -> None:
        self.metric, self.patience = metric, patience
        self.step: int | None = None
        """Where the best value was seen."""
        self.results: dict[str, float] = {}
        """All that was measured there."""
        self.since = 0
        """Evaluations after the best one."""

    def improves(self, step: int, results: Mapping[str, float]) -> bool:
        """Note the evaluation of `step`; True if it is the best until now. An untrained model (step 0) is not.

        Raises ConfigError if the metric is not among `results`.
        """
        if self.metric == "none":
            return False
        if self.metric not in results:
            what = f"no result '{self.metric}' in an evaluation; {nearest(self.metric, results)}"
            raise ConfigError(
                what, where="setting 'loop.metric_for_best'", hint="held-out data (--validation)"
            )
        if step == 0:
            return False
        sign = -1 if self.metric in HIGHER_IS_BETTER else 1
        if not sign * results[self.metric] < sign * self.results.get(self.metric, sign * math.inf):
            self.since += 1
            return False
        self.step, self.results, self.since = step, dict(results), 0
        return True

    @property
    def exhausted(self) -> bool:
        """Whether `patience` evaluations in a row were no better; never with patience 0."""
        return 0 < self.patience <= self.since

    def state(self) -> dict[str, Any]:
        """JSON-able; `restore` goes on from here."""
        return {"step": self.step, "results": self.results, "since": self.since}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.step, self.results, self.since = state["step"], state["results"], state["since"]
