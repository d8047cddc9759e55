"""An adapter on a model with a head: the head, which is new, is trained whole beside it and written with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luban.models.headed import Headed
from luban.training.config import ParallelConfig
from luban.tuning.adapted import Adapted, adapted


class AdaptedHead(Adapted):
    """See `Adapted`."""

    def told(self) -> str:
        """See `Adapted.told`."""
        head = sum(value.numel() for value in self.adapter.model.score.parameters())
        return f"{super().told()}; {head:,} of the trained ones are the head's"


def adapted_head(
    model: Headed, settings: Mapping[str, Any], *, base: Path, parallel: ParallelConfig | None = None
) -> AdaptedHead | None:
    """`adapted` for a model with a head, which stays trainable; None for an empty setting. Raises as that does."""
    learner = adapted(model, settings, base=base, parallel=parallel)
    if learner is None:
        return None
    model.score.requires_grad_(True)
    return AdaptedHead(learner.adapter, base=base, merges=learner.merges)
