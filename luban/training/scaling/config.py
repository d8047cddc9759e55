"""Settings of the grid and of the question put to it. No torch here: `--help` must answer at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le

from luban.device import DeviceConfig


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to ask of the fits."""

    budget: Annotated[float, Gt(0)] | None = None
    """FLOPs (6ND) to spend: tell what to train for them."""
    minutes: Annotated[float, Gt(0)] | None = None
    """The same for a time on the machine that trained the grid."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig, Question):
    """Train a grid of small models on your text, and fit how loss falls with size, data and compute.

    Every size is trained with every budget of compute. Interrupted, the same command goes on; with more sizes,
    budgets or seeds it trains only these.
    """

    data: tuple[Path, ...]
    """Folders from `luban data shards`."""
    tokenizer: Path
    """Folder of the tokenizer the shards were made with."""
    validation: Path
    """Shards of held-out documents; the loss on them is what is fitted."""
    out: Path
    """Folder for the runs, scaling.json, log.jsonl and the pictures."""
    model_type: str = "llama"
    """Family of the models: a causal one that `luban models` lists."""
    sizes: tuple[str, ...] = ("1x32", "2x48", "3x64", "3x96", "4x128")
    """Shapes as LAYERSxDIM, heads of 32: 0.05 to 0.9 million weights with a vocabulary of 1,024."""
    flops: tuple[Annotated[float, Gt(0)], ...] = (5e11, 1e12, 2e12, 4e12)
    """Budgets: compute of one run, forward and backward."""
    learning_rate: Annotated[float, Gt(0)] = 1.5e-3
    """Peak at a width of 128; it is inverse to the width."""
    warmup_steps: Annotated[int, Ge(0)] = 40
    """Steps of linear warm-up, at most a quarter of a size's shortest run."""
    decay_ratio: Annotated[float, Gt(0), Le(0.5)] = 0.2
    """Share of each run, at its end, in which the rate falls to 0; before it, the runs of a size are one run."""
    per_device_train_batch_size: Annotated[int, Ge(1)] = 4
    """Rows of a step, the same for all: short runs learn more in many small steps."""
    max_length: Annotated[int, Ge(2)] = 128
    """Tokens of a row."""
    eval_batches: Annotated[int, Ge(1)] = 128
    """Held-out batches that a run is scored on, always the same ones."""
    seeds: tuple[Annotated[int, Ge(0)], ...] = (0,)
    """A grid for each of these; the fits take all runs together."""
    resamples: Annotated[int, Ge(1)] = 1000
    """Draws of the bootstrap that gives the intervals."""
