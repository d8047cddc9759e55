"""How many weights of a model are trained, rest as they are, or rest in four bits; they need no memory for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from luban.models import FAMILIES
from luban.nn.quantize import Nf4Linear

Adapt = Callable[[Any], object]
"""Puts a method of tuning fewer weights on a model, which may be one without memory."""


class Weights(NamedTuple):
    """How many weights of a kind."""

    trained: int
    kept: int
    """Frozen, in floats."""
    quantised: int
    """Frozen, in four bits."""
    head: bool
    """Whether the head for words is among the trained ones."""


def hollow(config: Any, adapt: Adapt | None = None) -> Any:
    """A model of a family's `config` whose weights have no memory, with what `adapt` makes of it."""
    with torch.device("meta"):
        model = FAMILIES[config.model_type].model(config)
        if adapt is not None:
            adapt(model)
    return model


def weights_of(model: Any) -> Weights:
    """The weights of `model` as they are now."""
    head = getattr(getattr(model, "head", None), "weight", None)
    floats = [weight for weight in model.parameters() if weight.is_floating_point()]
    packed = [layer for layer in model.modules() if isinstance(layer, Nf4Linear)]
    return Weights(
        trained=sum(weight.numel() for weight in floats if weight.requires_grad),
        kept=sum(weight.numel() for weight in floats if not weight.requires_grad),
        quantised=sum(layer.in_features * layer.out_features for layer in packed),
        head=head is not None and head.requires_grad,
    )
