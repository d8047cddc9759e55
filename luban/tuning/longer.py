"""A model's numbers and weights for a longer window: what `luban extend` changes before it trains.

Rotary models get slower rotations, or a larger base of them; learned positions are stretched; slopes (ALiBi) hold
at any distance, so only the window is declared.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from luban.errors import ConfigError, nearest
from luban.models.bloom import BloomConfig
from luban.models.gpt2 import GPT2Config
from luban.models.llama import LlamaConfig
from luban.nn.rope_scaling import RopeScaling, ntk_theta

WAYS: dict[type[Any], tuple[str, ...]] = {
    LlamaConfig: ("none", "linear", "ntk", "dynamic", "yarn"),
    BloomConfig: ("alibi",),
    GPT2Config: ("linear",),
}
"""By a family's config: `none` and `alibi` declare a longer window and change nothing else."""


def longer_shape(shape: Any, method: str, context: int, *, attention_factor: float | None = None) -> Any:
    """The numbers of `shape` with a window of `context` tokens, by one of its family's `WAYS`.

    Raises ConfigError where the family or the model does not allow it.
    """
    _check(shape, method, context, attention_factor)
    factor = context / shape.context
    if method == "ntk":
        theta = ntk_theta(shape.rope_theta, factor, shape.head_dim)
        return dataclasses.replace(shape, context=context, rope_theta=theta)
    if method in ("none", "alibi") or isinstance(shape, GPT2Config):
        return dataclasses.replace(shape, context=context)
    told: dict[str, Any] = {"kind": method, "factor": factor, "attention_factor": attention_factor}
    if method != "linear":
        told["original_context"] = shape.context
    return dataclasses.replace(shape, context=context, rope_scaling=RopeScaling(**told))


def lengthened(model: Any, shape: Any) -> Any:
    """`model` with the numbers `shape`: the same weights, learned positions stretched."""
    weights = model.state_dict()
    if isinstance(shape, GPT2Config):
        weights["positions.weight"] = stretched(weights["positions.weight"], shape.context)
    with torch.device("meta"):
        made = type(model)(shape)
    made.load_state_dict(weights, assign=True)
    if shape.tied:
        made.tie()
    return made


def stretched(table: Tensor, context: int) -> Tensor:
    """Rows for `context` positions, each between the two old ones it falls between; the ends stay.

    Source: position interpolation, Chen et al. 2023 (arXiv:2306.15595), on learned positions.
    """
    columns = torch.nn.functional.interpolate(table.T[None], size=context, mode="linear", align_corners=True)
    return columns[0].T.contiguous()


def _check(shape: Any, method: str, context: int, attention_factor: float | None) -> None:
    ways = WAYS.get(type(shape), ())
    if not ways:
        fitting = ", ".join(sorted(family.__name__.removesuffix("Config").lower() for family in WAYS))
        what = f"the window of a '{shape.model_type}' model cannot be made longer; families: {fitting}"
        raise ConfigError(what, where="setting 'model'")
    if method not in ways:
        what = f"'{method}' is not for a '{shape.model_type}' model; {nearest(method, ways)}"
        raise ConfigError(what, where="setting 'method'")
    if context <= shape.context:
        what = f"{context} tokens are not more than the window has, {shape.context}"
        raise ConfigError(what, where="setting 'context'")
    if attention_factor is not None and method != "yarn":
        raise ConfigError(f"'{method}' has no temperature", where="setting 'attention_factor'", hint="yarn")
    if getattr(shape, "rope_scaling", None) is not None:
        what = f"the rotations are scaled already ({shape.rope_scaling.kind})"
        raise ConfigError(what, where="setting 'model'", hint="extend the model it was made from")
