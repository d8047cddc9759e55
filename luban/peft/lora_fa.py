"""LoRA-FA: A stays as it was drawn, so of a layer's input only the r numbers A x are kept for the gradient of B."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from luban.peft.lora import Lora, LoraConfig, LowRank, attach_low_rank


@dataclass(frozen=True, kw_only=True)
class LoraFaConfig(LoraConfig):
    """Low-rank adaptation with A frozen: half the trained weights, activations of rank `r`."""


class LoraFa(Lora):
    """One layer's thin matrices, of which B is trained.

    Source: Zhang et al. 2023, section 3 (arXiv:2308.03303); A is drawn as in `Lora`, where they take a normal.
    """

    def __init__(self, layer: Any, config: LoraConfig) -> None:
        super().__init__(layer, config)
        self.a.requires_grad_(False)


def apply(model: Any, config: LoraFaConfig, *, name: str = "default") -> LowRank:
    """LoRA-FA on linear layers (an embedding's A begins at zero: frozen, it would learn nothing)."""
    attach_low_rank(model, config, (nn.Linear,), name, LoraFa)
    return LowRank(model, "lora_fa", config, name=name)
