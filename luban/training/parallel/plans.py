"""Which layer tensor parallelism cuts how: a family's plan, read and checked before anything is made.

A plan is data in the family's file: from patterns of module names to the words that `tensor.py` explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luban.errors import ConfigError
from luban.models import FAMILIES

SHARED_OUT = ("heads", "kv_heads", "hidden", "encoder_heads", "encoder_hidden")
"""What of a config is dealt out evenly, where it has such a number."""


def plan_for(config: Any, tp: int) -> Mapping[str, str]:
    """The plan of a ModelConfig's family; empty where one process has every layer to itself.

    Raises ConfigError where the family has none, or `tp` does not divide the model's numbers.
    """
    if tp == 1:
        return {}
    where = "setting 'parallel.tp'"
    plan = FAMILIES[config.model_type].tp_plan
    if plan is None:
        having = ", ".join(name for name, family in FAMILIES.items() if family.tp_plan is not None)
        what = f"the layers of a '{config.model_type}' model cannot be shared by {tp} processes"
        raise ConfigError(what, where=where, hint=f"one of {having}")
    for name in SHARED_OUT:
        count = getattr(config, name, 0)
        if count % tp:
            raise ConfigError(f"{name} {count} cannot be dealt out evenly to {tp} processes", where=where)
    if bounds(config.vocab, tp - 1, tp)[0] == config.vocab:
        raise ConfigError(f"vocab {config.vocab} leaves one of {tp} processes without a token", where=where)
    return plan


def matches(pattern: str, name: str) -> bool:
    """Whether a plan's `pattern` means the module `name`: `*` is a number, `q|k` either of two names.

    >>> matches("blocks.*.attention.q|k", "blocks.0.attention.k")
    True
    """
    parts, names = pattern.split("."), name.split(".")
    if len(parts) != len(names):
        return False
    return all(n.isdigit() if p == "*" else n in p.split("|") for p, n in zip(parts, names, strict=True))


def bounds(count: int, place: int, places: int) -> tuple[int, int]:
    """Which of `count` rows the process at `place` has: as many as the others, the last fewer (DTensor's way)."""
    each = -(-count // places)
    return min(count, place * each), min(count, (place + 1) * each)
