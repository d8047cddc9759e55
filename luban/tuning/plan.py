"""Stage `plan`: what a run takes, before running it, of a whole model (`training/plan.py`) or of an adapter on it.

luban plan --model base/final peft.method=qlora peft.r=16

The method is put on a model without memory, so what is trained and written is counted off the very code that runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from luban.errors import ConfigError
from luban.training import plan as whole
from luban.training.reinforced import Trunk, ppo_bytes


@dataclass(frozen=True, kw_only=True)
class Config(whole.Config):
    """Forecast a training run, here or on a cluster."""

    peft: Mapping[str, Any] = field(default_factory=dict)
    """Plan for fewer weights, on this machine: `peft.method=lora peft.r=8 ...` (docs/tuning.md)."""
    ppo: Literal["no", "shared", "separate"] = "no"
    """Plan for `luban ppo` with such a `critic_trunk` and a reward model, all of the policy's size, on this machine;
    a row is a prompt and its answer."""


def run(config: Config) -> dict[str, Any]:
    """The forecast as a dict of numbers: sizes in bytes, time in seconds, rates in FLOP/s."""
    if config.ppo != "no" and (config.minutes or config.cluster != whole.Config.cluster):
        setting = "minutes" if config.minutes else "cluster"
        what = "PPO is planned for a known model on this machine"
        raise ConfigError(what, where=f"setting 'ppo' with '{setting}'", hint=f"leave out {setting}")
    told = _adapted(config) if config.peft else whole.run(config)
    return told if config.ppo == "no" else _reinforced(told, config, trunk=config.ppo)


def _adapted(config: Config) -> dict[str, Any]:
    from luban.training.weights import hollow
    from luban.tuning.adapted import planned

    told = whole.run(config, adapt=lambda model: planned(model, config.peft))
    return told | planned(hollow(whole.model_of(config)), config.peft).file_bytes()


def _reinforced(told: dict[str, Any], config: Config, *, trunk: Trunk) -> dict[str, Any]:
    """`told` with the memory of PPO's roles."""
    model = whole.model_of(config)
    body = told["parameters"] - (0 if model.tied else model.vocab * model.dim)
    memory = ppo_bytes(
        told["memory_bytes"],
        body=body,
        whole=told["parameters"],
        vocab=model.vocab,
        tokens=config.row_tokens,
        trunk=trunk,
        adapted=bool(config.peft),
    )
    return told | {"memory_bytes": memory, "fits": memory["total"] <= told["usable_bytes"]}


def show(results: dict[str, Any]) -> None:
    """Print the forecast as tables."""
    whole.show(results)
