"""What can be chosen of an n-gram model's smoothing. No numpy here: `--help` must answer at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from luban.errors import ConfigError

Estimator = Literal["kneser-ney", "katz", "add-k", "maximum-likelihood"]


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """How counts become probabilities."""

    estimator: Estimator = "kneser-ney"
    """Interpolated modified Kneser-Ney; Katz's back-off; add `k`; or none: what was never seen is impossible."""
    k: Annotated[float, Gt(0)] = 1.0
    """What `add-k` adds to every count."""
    prune: tuple[Annotated[int, Ge(0)], ...] = (0,)
    """`kneser-ney` leaves out n-grams seen at most so often, per order, the last number for all higher ones."""

    def __post_init__(self) -> None:
        if self.estimator != "kneser-ney" and any(self.prune):
            raise ConfigError(f"setting 'prune' is {list(self.prune)}, but only kneser-ney prunes")
