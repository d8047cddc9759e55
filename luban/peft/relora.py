"""ReLoRA: low-rank changes one after another, each put into the weights for good, add up to one of high rank.

Every `reset_every` steps: merge, draw A anew and set B to zero, forget most of the optimizer's moments, and warm the
learning rate up again (the jagged schedule). The model's own weights change: it is saved whole, and a run is resumed
from a checkpoint of all weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from luban.errors import ConfigError
from luban.nn.quantize import is_quantised
from luban.peft.lora import LAYERS, Lora, LoraConfig, LowRank, attach_low_rank


@dataclass(frozen=True, kw_only=True)
class ReLoraConfig(LoraConfig):
    """Repeated low-rank adaptation."""

    reset_every: Annotated[int, Ge(1)] = 1000
    """Steps from one merge to the next."""
    rewarm_steps: Annotated[int, Ge(0)] = 50
    """Steps after each merge in which the learning rate rises from 0 to what the schedule says."""
    prune: Annotated[float, Gt(0), Le(1)] = 0.99
    """Share of the optimizer's moments of A and B, the smallest ones, that a merge sets to zero."""

    def __post_init__(self) -> None:
        if self.rewarm_steps >= self.reset_every:
            what = f"rewarm_steps {self.rewarm_steps} leaves nothing of the {self.reset_every} steps of reset_every"
            raise ConfigError(what)


class ReLora(LowRank):
    """LoRA that is merged and begun again; `remove` and `switched_off` do not bring back what was merged.

    Source: Lialin et al. 2023, algorithm 1 (arXiv:2307.05695). Their two moments are pruned apart; here both lose
    the places where the first is small, as a kept first over a pruned second would make a huge step.
    """

    changes_base = True
    config: ReLoraConfig

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """See `Adapter.after_step`; the last change of a run stays an adapter."""
        if step % self.config.reset_every == 0 and step < steps:
            self.reset(optimizer)

    @torch.no_grad()
    def reset(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the change so far into the weights and begin a new one."""
        for place, part in self.lora().items():
            layer: Any = self.model.get_submodule(place)
            layer.weight.copy_(layer.weight + part.delta(layer))
            part.start(layer)
            for weight in part.parameters():
                _prune(optimizer.state.get(weight, {}), weight, self.config.prune)

    def rate_factor(self, step: int, steps: int) -> float:  # noqa: ARG002 - the moment's signature
        """See `Adapter.rate_factor`; the first stretch has the run's own warm-up."""
        since = (step - 1) % self.config.reset_every
        if step <= self.config.reset_every or since >= self.config.rewarm_steps:
            return 1.0
        return (since + 1) / self.config.rewarm_steps


def apply(model: Any, config: ReLoraConfig, *, name: str = "default") -> ReLora:
    """ReLoRA on the layers of `config.target_modules`.

    Raises ConfigError where a merge is lost, in a quantised model, or would change the head.
    """
    if is_quantised(model):
        raise ConfigError(
            "relora changes the model's own weights, which are quantised here", where="peft.method"
        )
    attach_low_rank(model, config, LAYERS, name, Lora)
    adapter = ReLora(model, "relora", config, name=name)
    try:
        adapter.mergeable()
    except ConfigError:
        adapter.remove()
        raise
    return adapter


def _prune(moments: dict[str, Any], weight: nn.Parameter, share: float) -> None:
    """Set `share` of what an optimizer keeps for `weight` to zero: where the first of it is smallest."""
    kept = [value for value in moments.values() if isinstance(value, Tensor) and value.shape == weight.shape]
    if not kept:
        return
    count = int(share * weight.numel())
    smallest = kept[0].abs().flatten().topk(count, largest=False).indices
    for value in kept:
        value.view(-1)[smallest] = 0.0
