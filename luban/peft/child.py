"""Child-tuning: each step moves only a part of the network, a random one or the one that matters to the task.

F (free)     every weight's gradient is kept with probability p, anew in each step, and scaled by 1/p
D (driven)   the share p of weights with the most Fisher information is chosen once; the others never move
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from luban.errors import CheckpointError, ConfigError
from luban.nn.surgery import own_parameters
from luban.peft.select import Change, Selection, choose


@dataclass(frozen=True, kw_only=True)
class ChildTuningConfig:
    """A child network of all weights."""

    kind: Literal["F", "D"] = "F"
    """F draws a new child in each step; D takes the one that the task's data chooses before training."""
    p: Annotated[float, Gt(0), Le(1)] = 0.3
    """The child's share of the weights."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the children that F draws."""


class ChildTuning(Selection):
    """Full fine-tuning under a mask.

    Source: Xu et al. 2021, algorithms 1 and 2 (arXiv:2109.05687). There the optimizer's weight decay still moves what
    is outside of D's child; here nothing does.
    """

    def __init__(self, model: Any, config: ChildTuningConfig, *, name: str = "default") -> None:
        super().__init__(model, "child_tuning", config, name=name)
        self.masks: dict[str, Tensor] = {}
        """D's child by name of weight; empty until it is chosen."""
        self.steps = 0

    def before_training(self, batches: Iterable[Any], objective: Callable[[Any, Any], Any]) -> None:
        """Choose D's child by the Fisher information in `batches`, which F has no need of.

        On a resume the same batches and the model before training choose the same child; `restore` checks it.
        """
        if self.config.kind == "D":
            self.masks = largest(fisher(self.model, batches, objective), self.config.p)

    def after_backward(self) -> None:
        """Leave the child's gradients; raises ConfigError for a D whose child is not chosen."""
        self.steps += 1
        gradients = {name: value.grad for name, value in self.trained().items() if value.grad is not None}
        if self.config.kind == "D":
            self._check_chosen()
            for name, gradient in gradients.items():
                gradient *= self.masks[name]
            return
        device = next(iter(gradients.values())).device
        # A stream for each step: a resumed run draws what an uninterrupted one does.
        generator = torch.Generator(device).manual_seed(self.config.seed * 1_000_003 + self.steps)
        for gradient in gradients.values():
            kept = torch.rand(gradient.shape, generator=generator, device=device) < self.config.p
            gradient *= kept / self.config.p

    @torch.no_grad()
    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002 - a moment's
        """Undo what weight decay did to weights outside of D's child."""
        for place, (_, part) in self.parts().items() if self.masks else ():
            assert isinstance(part, Change)
            for end, value in part.tensors().items():
                mask = self.masks[f"{place}.{end}" if place else end]
                value.copy_(torch.where(mask, value, part.was(end)))

    def state(self) -> dict[str, Any]:
        """See `Adapter.state`."""
        return {"steps": self.steps, "child": self._digest()}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Adapter.restore`; raises CheckpointError if another child was trained."""
        if state["child"] != self._digest():
            what = "the data chooses another child than the one this checkpoint trained"
            raise CheckpointError(
                what, where="child_tuning", hint="the data and seed of the run that stopped"
            )
        self.steps = state["steps"]

    def _check_chosen(self) -> None:
        if not self.masks:
            what = "kind D trains a child that data has to choose, and it has seen none"
            raise ConfigError(
                what, where="child_tuning", hint="before_training(batches, objective), or kind F"
            )

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name, mask in self.masks.items():
            digest.update(name.encode() + mask.cpu().numpy().tobytes())
        return digest.hexdigest()[:32]


def fisher(
    model: nn.Module, batches: Iterable[Any], objective: Callable[[Any, Any], Any]
) -> dict[str, Tensor]:
    """Each trained weight's Fisher information, by name: the mean over `batches` of its squared gradient.

    The gradient is that of a batch's summed loss, so batches of one row give the empirical information exactly;
    larger ones are quicker and coarser. Raises ConfigError if there is no batch.

    Source: Xu et al. 2021, section 2.3 (arXiv:2109.05687).
    """
    trained = {name: value for name, value in own_parameters(model).items() if value.requires_grad}
    sums = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in trained.items()}
    count = 0
    for batch in batches:
        count += 1
        loss = objective(model, batch).loss
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        for name, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient.float().square()
    if not count:
        raise ConfigError("there is no batch to take the Fisher information from", where="child_tuning")
    return {name: total / count for name, total in sums.items()}


def largest(scores: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Where the `share` of all scores, taken together, with the largest values is; of equal ones the first."""
    whole = torch.cat([score.flatten() for score in scores.values()])
    count = max(1, round(share * whole.numel()))
    threshold = whole.kthvalue(
        whole.numel() - count + 1
    ).values  # several times quicker than `topk` of so many
    mask = whole > threshold
    ties = (whole == threshold).nonzero()[:, 0]
    mask[ties[: count - int(mask.sum())]] = True
    pieces = mask.split([score.numel() for score in scores.values()])
    return {name: piece.view_as(scores[name]) for name, piece in zip(scores, pieces, strict=True)}


def apply(model: Any, config: ChildTuningConfig, *, name: str = "default") -> Selection:
    """Child-tuning of all the model's weights; keeps a copy of them as they are.

    Raises ConfigError for a model that another method has frozen.
    """
    trained = [whole for whole, value in own_parameters(model).items() if value.requires_grad]
    if not trained:
        what = "nothing is left to train: another method has frozen this model's weights"
        raise ConfigError(what, where="child_tuning")
    choose(model, trained, name)
    return ChildTuning(model, config, name=name)
