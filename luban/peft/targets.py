"""Which layers a setting means: our patterns, Hugging Face's names, `all-linear`; and values told by pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

from torch import nn

from luban.errors import ConfigError, nearest
from luban.nn.surgery import ATTACHED, matches

T = TypeVar("T")

ALL_LINEAR = "all-linear"
"""In place of patterns: every linear layer but the head, as `peft` means it."""
HEADS = ("head", "score")
"""Names of a model's head for words, and of one for a task."""


def own_patterns(patterns: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """`patterns` with Hugging Face's names (`q_proj`, `attn.c_attn`) as the layers of ours that they mean.

    `names` has HF's name of each layer. What means a layer of ours, or nothing at all, stays as it is.
    """
    found: list[str] = []
    for pattern in patterns:
        ours = any(matches(pattern, place) for place in names)
        theirs = [place for place, name in names.items() if f".{name}".endswith(f".{pattern}")]
        found += [pattern] if ours or not theirs else theirs
    return tuple(dict.fromkeys(found))


def by_ends(some: AbstractSet[str], names: Mapping[str, str]) -> list[str]:
    """HF's layers `some` by the ends of their names, where these mean no others of `names`; else by whole names."""
    others = {name.rpartition(".")[2] for name in set(names.values()) - some}
    return sorted({end if (end := name.rpartition(".")[2]) not in others else name for name in some})


def expanded(model: Any, patterns: Sequence[str]) -> tuple[str, ...]:
    """`patterns`, `all-linear` among them replaced by the layers that it means."""
    if ALL_LINEAR not in patterns:
        return tuple(patterns)
    every = [
        place
        for place, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and place.rpartition(".")[2] not in HEADS
        and ATTACHED not in place.split(".")
    ]
    return (*(pattern for pattern in patterns if pattern != ALL_LINEAR), *every)


def told(values: Mapping[str, T], place: str, default: T) -> T:
    """What the first pattern of `values` that means the layer `place` says."""
    return next((value for pattern, value in values.items() if matches(pattern, place)), default)


def check_patterns(values: Mapping[str, object], places: Sequence[str], *, where: str) -> None:
    """Raise ConfigError for a pattern that means none of the layers `places`."""
    for pattern in values:
        if not any(matches(pattern, place) for place in places):
            advice = nearest(pattern, {place.rpartition(".")[2] for place in places})
            raise ConfigError(f"'{pattern}' means no layer that is adapted; {advice}", where=where)
