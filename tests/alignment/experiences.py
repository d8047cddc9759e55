"""An experience by hand: two answers of two and three tokens, everything else given."""

from __future__ import annotations

from typing import Any

import torch

from luban.alignment.experience import Experience
from luban.data.batch import Origin

THERE = torch.tensor([[True, True, False], [True, True, True]])


def experience(**changes: Any) -> Experience:
    """Prompts [5, 6] and [7], answers [8, 9] and [10, 11, 12]."""
    zeros = torch.zeros(2, 3)
    told: dict[str, Any] = {
        "tokens": torch.tensor([[5, 6, 8, 9], [7, 10, 11, 12]]),
        "places": torch.tensor([[1, 2, 0], [0, 1, 2]]),
        "actions": torch.tensor([[8, 9, 0], [10, 11, 12]]),
        "there": THERE,
        "ids": [Origin("rows", 1), Origin("rows", 2)],
        **dict.fromkeys(("logps", "reference_logps", "advantages", "values", "returns"), zeros),
    }
    return Experience(**(told | changes))
