"""Whether compiling a run's model pays: what it saves over all steps, against what it takes once.

The forecast uses what `luban doctor --tune` measured on this machine, where it did. The choice is written down
beside the run: a resumed run makes the same one, or its numbers would not be the same to the bit.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from luban.folder import read_json, write_json
from luban.machine import Tuned, tuned
from luban.models import FAMILIES
from luban.nn.linear import measure_flops
from luban.training.config import LoopConfig
from luban.training.flops import training_flops_per_token
from luban.training.parallel.spread import Spread
from luban.training.parallel.world import World

CHOICE = "compile.json"
GAIN = {"cpu": 1.04}
"""Speed of a compiled step over an eager one where nobody measured (benchmarks/README.md)."""
GAIN_ELSEWHERE = 1.3
COMPILE_S = 25.0
"""Seconds that compiling takes where nobody measured."""
SHARE_OF_PEAK = 0.6
"""Share of the matrix-product rate that an eager step reaches."""


def compiled(
    loop: LoopConfig, laid_out: Spread, world: World, *, out: Path, steps: int, device: torch.device
) -> bool:
    """Whether to compile the model of this run: as `loop.compile` says, or with `auto` where it pays."""
    if loop.compile is not False and not laid_out.compiles:
        if world.main:
            print("compile: not with zero 2 or 3, nor pp; training runs eagerly", file=sys.stderr)
        return False
    if isinstance(loop.compile, bool):
        return loop.compile
    if not FAMILIES[laid_out.model.config.model_type].compiles:
        return False  # nothing to weigh: its objective runs as it is
    path = out / CHOICE
    if world.main and not path.is_file():
        write_json(path, _weigh(loop, laid_out.model.config, steps, device))
    world.wait()
    return bool(read_json(path)["compile"])


def _weigh(loop: LoopConfig, config: Any, steps: int, device: torch.device) -> dict[str, Any]:
    """The choice with its reasons, all in seconds."""
    tokens = steps * loop.gradient_accumulation_steps * loop.per_device_train_batch_size * loop.max_length
    per_token = training_flops_per_token(config, loop.max_length)
    eager_s = tokens * per_token / (measure_flops(device) * SHARE_OF_PEAK)
    measured = tuned() if device.type == "cpu" else Tuned()
    gain = measured.compile_gain or GAIN.get(device.type, GAIN_ELSEWHERE)
    takes_s = measured.compile_s or COMPILE_S
    saves_s = eager_s * (1 - 1 / gain)
    return {
        "compile": saves_s > takes_s,
        "saves_s": round(saves_s, 1),
        "takes_s": round(takes_s, 1),
        "gain": gain,
        "measured": measured.compile_gain > 0,
    }
