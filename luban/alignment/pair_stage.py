"""What the stages that learn from pairs of answers, `dpo` and `reward`, share: settings, the loader, what they tell."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from luban.device import DeviceConfig
from luban.errors import ConfigError
from luban.training.config import LoopConfig, OptimizerConfig, ParallelConfig

if TYPE_CHECKING:
    from luban.data.loader import Examples, Loader
    from luban.data.rejected import Tally
    from luban.training.parallel.world import World
    from luban.tuning.adapted import Adapted

LEARNT, HELD_OUT = "preferences", "held-out"
"""Names of the loader's sources."""


@dataclass(frozen=True, kw_only=True)
class PreferenceOptimizer(OptimizerConfig):
    """AdamW with the small steps of a model that is to stay what it is."""

    learning_rate: Annotated[float, Gt(0)] = 1e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled decay of matrices; vectors (norms, biases) are not decayed."""


@dataclass(frozen=True, kw_only=True)
class PairLoop(LoopConfig):
    """The loop, with rows that hold two answers."""

    per_device_train_batch_size: Annotated[int, Ge(1)] = 8
    """Rows in one forward pass, each of one or more whole pairs."""
    max_length: Annotated[int, Ge(2)] = 512
    """Tokens per row: room for the prompt twice and both answers."""


@dataclass(frozen=True, kw_only=True)
class PairConfig(DeviceConfig):
    """What a stage that learns from pairs is told, whatever it makes of them."""

    out: Path
    """Folder for checkpoints, log, curves, report and `final/`."""
    validation: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the prompts held out for val/accuracy and the report."""
    on_bad_row: Literal["stop", "reject"] = "stop"
    """A row that cannot be used stops the run and is named, or goes to `<out>/rejected.jsonl` with the reason."""
    packing: bool = True
    """Fill rows with several pairs; off gives each its own padded row."""
    peft: Mapping[str, Any] = field(default_factory=dict)
    """Tune fewer weights: `peft.method=lora peft.r=8 ...` (docs/tuning.md lists methods and settings)."""
    optimizer: PreferenceOptimizer = field(default_factory=PreferenceOptimizer)
    loop: PairLoop = field(default_factory=PairLoop)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    seed: Annotated[int, Ge(0)] = 0
    """Seed of what is drawn: the split, the data order, a score's first weights."""
    max_rows: Annotated[int, Gt(0)] | None = None
    """Use only this many pairs, drawn with `seed`."""

    def __post_init__(self) -> None:
        check_copies(self.parallel)


def check_copies(parallel: ParallelConfig) -> None:
    """Raise ConfigError where a model's layers would be cut up: answers are compared over whole rows of logits."""
    for name in ("tp", "pp"):
        if getattr(parallel, name) > 1:
            what = "preferences are learnt by copies of a model, not by one that is cut up"
            raise ConfigError(what, where=f"setting 'parallel.{name}'", hint="parallel.dp, parallel.zero=3")


def check_room(model: Any, learner: Adapted | None, longest: int) -> None:
    """Raise ConfigError where an adapter takes places of the window that the `longest` answer needs."""
    if learner is None or longest + learner.adapter.places <= model.config.context:
        return
    taken = f"{learner.adapter.method} takes {learner.adapter.places} of the window's {model.config.context} places"
    what = f"{taken}, and the longest answer with its prompt {longest}"
    raise ConfigError(what, where="setting 'peft'")


def tell(
    out: Path,
    stage: str,
    tally: Tally,
    learnt: Examples,
    held_out: Examples,
    learner: Adapted | None,
    world: World,
) -> dict[str, int]:
    """What became of the rows, and how many weights are trained; the main process says so, and writes bad rows."""
    from luban.data.rejected import write_rejected

    rows = {"rows": tally.rows, "rejected": len(tally.rejected)}
    if world.main:
        print(f"{stage}: {rows}, {len(learnt)} to learn from, {len(held_out)} held out", file=sys.stderr)
        for reason in tally.rejected[:5]:
            print(f"  rejected {reason}", file=sys.stderr)
        if learner is not None:
            print(f"{stage}: {learner.told()}", file=sys.stderr)
        write_rejected(out, tally)
    return rows if learner is None else {**rows, **learner.counts()}


def pair_loader(
    config: PairConfig, examples: Examples, name: str, world: World, *, epochs: int | None
) -> Loader:
    """The loader of a stage that learns from pairs; each is a document, and so in one row."""
    from luban.data.loader import Source
    from luban.training.rows import whole_documents

    return whole_documents(config, [Source(examples=examples, name=name)], world, epochs=epochs)
