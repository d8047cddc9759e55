"""In what numbers a model computes while it learns: float32, or a faster format with float32 weights behind it.

Weights, gradients, optimizer and the loss's softmax stay float32; `torch.autocast` makes the matrix products of a
forward pass and their gradients the faster ones. bfloat16 reaches as far as float32. float16 does not: small
gradients vanish in it, so the loss is scaled up first, by as much as it bears (`Scaler`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from luban.data.batch import Batch
from luban.errors import TrainingError
from luban.training.step import Objective, Step

FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16")
"""Capabilities of a CPU that multiplies bfloat16 faster than float32."""


def precision_named(name: str, device: torch.device) -> torch.dtype:
    """The dtype of `loop.precision`: `auto` is bfloat16 where `device` is faster in it, else float32."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and any(torch.cpu.get_capabilities().get(word) for word in FAST_BFLOAT16)
    return torch.bfloat16 if fast else torch.float32


def computing_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """A block whose forward passes compute in `dtype`; float32 is as without it."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def in_precision(objective: Objective, dtype: torch.dtype, device: torch.device) -> Objective:
    """`objective`, computing in `dtype`; its loss stays float32, and so does the gradient of every weight."""
    if dtype == torch.float32:
        return objective

    def quicker(model: Any, batch: Batch) -> Step:
        with computing_in(dtype, device):
            return objective(model, batch)

    return quicker


class Scaler:
    """By how much a float16 run multiplies its loss: twice as much after `interval` good steps, half after a bad one.

    A bad step is one whose gradients are not finite although its loss is; it is not taken. With the loss of a
    whole batch summed up, the first scale is usually too large, and a run begins with a few of them.

    Source: Micikevicius et al. 2018, section 3.2 (arXiv:1710.03740); the constants are `torch.amp.GradScaler`'s.
    """

    SMALLEST = 2.0**-24
    """A gradient that overflows even when made this much smaller is not float16's fault."""

    def __init__(self, *, scale: float = 2.0**16, interval: int = 2000) -> None:
        self.scale, self.interval = scale, interval
        self.good = 0
        """Good steps since the scale last changed."""
        self.skipped = 0
        """Bad steps of the whole run."""

    def passed(self) -> None:
        """Note a good step."""
        self.good += 1
        if self.good == self.interval:
            self.scale, self.good = self.scale * 2, 0

    def overflowed(self) -> None:
        """Note a bad step; raises TrainingError where no scale helps."""
        self.scale, self.good, self.skipped = self.scale / 2, 0, self.skipped + 1
        if self.scale < self.SMALLEST:
            raise TrainingError(
                "the gradient is not finite at any scale of the loss",
                where="setting 'loop.precision' float16",
                hint="loop.precision=bfloat16 or float32",
            )

    def state(self) -> dict[str, Any]:
        """JSON-able; `restore` goes on from here."""
        return {"scale": self.scale, "good": self.good, "skipped": self.skipped}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.scale, self.good, self.skipped = state["scale"], state["good"], state["skipped"]
