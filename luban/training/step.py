"""One optimizer step: accumulate, average over all targets, clip, move.

An objective is a function `(model, batch) -> Step`. It returns sums; the division by the number of targets
happens once, over all micro-batches, so that 1x8, 2x4 and 8x1 rows are the same step.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from luban.data.batch import Batch
from luban.errors import TrainingError
from luban.nn.spans import available
from luban.training.config import GuardConfig
from luban.training.guard import Guard
from luban.training.losses import linear_cross_entropy

if TYPE_CHECKING:
    from luban.training.precision import Scaler


@dataclass(frozen=True)
class Step:
    """What an objective returns for a batch: the summed loss and over how many targets it sums."""

    loss: Tensor
    targets: int


Objective = Callable[[Any, Batch], Step]


@dataclass(frozen=True)
class Update:
    """What one optimizer step did: mean loss in nats per target, norm before clipping, number of targets."""

    loss: float
    grad_norm: float
    targets: int
    fault: str = ""
    """Why the step was not taken after all; then nothing moved."""


OVERFLOW = "the scaled gradient overflowed float16"
"""The fault that is no batch's: the scaler mends it."""


def next_token(hidden: Callable[..., Tensor] | None = None, *, smoothing: float = 0.0) -> Objective:
    """The objective of pretraining and SFT: cross-entropy of every unmasked next token.

    Documents packed into a row do not see each other. `hidden` replaces `model.hidden`, compiled for example;
    `smoothing` spreads that share of each target over the vocabulary, in training only.
    """

    def objective(model: Any, batch: Batch) -> Step:
        cache = model.isolate(batch.documents) if batch.packed else None
        states = (hidden or model.hidden)(batch.tokens, batch.positions, cache)
        loss = linear_cross_entropy(
            states.flatten(0, 1),
            model.head.weight,
            batch.targets.flatten(),
            smoothing=smoothing if torch.is_grad_enabled() else 0.0,
        )
        return Step(loss, batch.target_count)

    return objective


class Sums(NamedTuple):
    """What a global batch adds up to, over all micro-batches and processes."""

    loss: float
    targets: int


class Gradients(Protocol):
    """Where a step's gradients come from: one process (`Accumulated`), or many (`parallel/`)."""

    def sum(self, batches: Sequence[Batch], *, scale: float = 1.0) -> Sums:
        """Fill `.grad` with the gradient of `scale` times the loss summed over the global batch.

        `batches` are this process's micro-batches; the sums returned are everyone's, without `scale`.
        """
        ...

    def norm(self) -> float:
        """The norm of all gradients as they are now, those of other processes' parameters too."""
        ...


@runtime_checkable
class Measured(Protocol):
    """Gradients that have more to tell of how the last step went."""

    def figures(self) -> dict[str, float]:
        """What the log says of it, by name."""
        ...


class Accumulated:
    """The gradients of one process: micro-batch after micro-batch, added up."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        self.model, self.objective = model, objective

    def sum(self, batches: Sequence[Batch], *, scale: float = 1.0) -> Sums:
        """See `Gradients.sum`."""
        self.model.train()
        total, targets = 0.0, 0
        for batch in batches:
            step = self.objective(self.model, batch)
            (step.loss if scale == 1.0 else step.loss * scale).backward()
            total, targets = total + step.loss.item(), targets + step.targets
        return Sums(total, targets)

    def norm(self) -> float:
        """See `Gradients.norm`."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return torch.stack(torch._foreach_norm(gradients)).norm().item()


class Updater:
    """Turns micro-batches into one step of the optimizer.

    `guard` says which updates not to take; `scaler` is for gradients in float16.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        gradients: Gradients,
        *,
        max_grad_norm: float,
        guard: Guard | None = None,
        scaler: Scaler | None = None,
    ) -> None:
        self.optimizer, self.gradients = optimizer, gradients
        self.max_grad_norm = max_grad_norm
        self.guard = guard or Guard(GuardConfig())
        self.scaler = scaler

    def update(self, batches: Sequence[Batch], *, learning_rate: float) -> Update:
        """One step on the sum of `batches`, averaged over all their targets.

        Raises TrainingError, before anything moves, if the loss or a gradient is not finite and the guard does not
        leave such batches out.
        """
        scale = 1.0 if self.scaler is None else self.scaler.scale
        total, targets = self.gradients.sum(batches, scale=scale)
        if targets == 0:
            raise TrainingError("no token of this batch is a target", where=_named(batches))
        norm = self.gradients.norm() / (targets * scale)
        update = Update(total / targets, norm, targets)
        if fault := self._fault(update, batches):
            self._clear()
            return dataclasses.replace(update, fault=fault)
        self._move(update, scale, learning_rate)
        return update

    def _fault(self, update: Update, batches: Sequence[Batch]) -> str:
        """Why the step must not be taken, if so; raises as `update` does."""
        try:
            if self.scaler and math.isfinite(update.loss) and not math.isfinite(update.grad_norm):
                self.scaler.overflowed()
                return OVERFLOW
            if fault := self.guard.fault(update.loss, update.grad_norm):
                self.guard.refuse(fault, where=_named(batches))
                return fault
        except TrainingError:
            self._clear()
            raise
        return ""

    def _move(self, update: Update, scale: float, learning_rate: float) -> None:
        clip = min(1.0, self.max_grad_norm / (update.grad_norm + 1e-6))
        for group in self.optimizer.param_groups:  # of one kind each: plain tensors or DTensors
            group["lr"] = learning_rate
            if gradients := [p.grad for p in group["params"] if p.grad is not None]:
                torch._foreach_mul_(gradients, clip / (update.targets * scale))
        self.optimizer.step()
        self._clear()
        self.guard.take(update.loss)
        if self.scaler:
            self.scaler.passed()

    def _clear(self) -> None:
        # Their memory is free for the next step's activations; the allocator keeps its pages.
        self.optimizer.zero_grad()


def _named(batches: Sequence[Batch]) -> str:
    documents = [str(document) for batch in batches for document in batch.ids]
    more = f" and {len(documents) - 8} more" if len(documents) > 8 else ""
    return f"documents {', '.join(documents[:8])}{more}"


def compiled_hidden(model: Any) -> Callable[..., Tensor]:
    """`model.hidden`, compiled; says so on stderr and stays eager where no C++ compiler can be found."""
    device = model.embedding.weight.device
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        print(
            "compile: no C++ compiler found (g++ or clang++); training runs eagerly, slower", file=sys.stderr
        )
        return model.hidden
    available()  # builds the attention kernel if need be: the compiler's tracing cannot
    return torch.compile(model.hidden)
