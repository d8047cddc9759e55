"""Training the runs of a grid, each a folder of `luban pretrain`, and reading what came out.

The runs of a size share their beginning: the learning rate is constant until a run's last part, so a longer run goes
on from the checkpoint a shorter one left there, as if it had taken those steps itself, bit for bit.

Source: Hägele et al. 2024 (arXiv:2405.18392), scaling laws without training every length from the start.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from luban import folder
from luban.lm import OpenLM
from luban.training import checkpoint, pretrain
from luban.training.metrics import read_log
from luban.training.scaling.config import Config
from luban.training.scaling.grid import Cell, run_config
from luban.training.scaling.points import Point


def train(cell: Cell, earlier: Sequence[Cell], config: Config, open_lm: OpenLM) -> Point:
    """Train the run, or go on with it, or take it as it is if finished; returns its figures.

    `earlier` are the cells before it. Raises ConfigError if its folder holds a run of other settings.
    """
    settings = run_config(cell, config)
    origin = _origin(cell, earlier, config)
    if origin and not settings.out.exists():
        _begin_from(origin, settings)
    try:
        metrics = pretrain.run(settings, open_lm)
    except folder.AlreadyDone as done:
        metrics = folder.read_json(done.out / folder.RUN_FILE)["metrics"]
    assert metrics["tokens"] == cell.tokens, f"{cell.name}: {metrics['tokens']} tokens, not {cell.tokens}"
    if origin:
        shutil.rmtree(origin.parent)  # a still longer run goes on from this cell
    return Point(
        size=cell.size.name,
        seed=cell.seed,
        budget=cell.budget,
        weights=cell.size.weights,
        body=cell.size.body,
        tokens=cell.tokens,
        flops=cell.flops,
        loss=metrics["val/loss"],
        bits_per_byte=metrics["val/bpb"],
        tokens_per_second=tokens_per_second(settings.out),
        epochs=cell.tokens / _corpus_tokens(config),
    )


def finished(cell: Cell, config: Config) -> bool:
    """Whether the cell's folder says that its run is done."""
    path = config.out / "cells" / cell.name / folder.RUN_FILE
    return path.is_file() and folder.read_json(path)["done"]


def tokens_per_second(out: Path) -> float:
    """Median over the lines of the run's log."""
    return median(line["train/tok_per_sec"] for line in read_log(out) if "train/tok_per_sec" in line)


def _corpus_tokens(config: Config) -> int:
    return sum(folder.read_json(path / "index.json")["tokens"] for path in config.data)


def _origin(cell: Cell, earlier: Sequence[Cell], config: Config) -> Path | None:
    """The checkpoint that the longest of the shorter runs of this size has left before its rate fell."""
    kept = [
        config.out / "cells" / one.name / "checkpoints" / f"step-{one.stable:08d}"
        for one in sorted(earlier, key=lambda one: -one.steps)
        if cell.shares(one) and one.stable <= cell.stable
    ]
    return next((path for path in kept if (path / checkpoint.STATE).is_file()), None)


def _begin_from(origin: Path, settings: pretrain.Config) -> None:
    """Give a run that has not begun the checkpoint of a shorter one; killed in between, it begins from scratch."""
    assert settings.validation is not None
    inputs = [*settings.data, settings.tokenizer, settings.validation]
    folder.claim(settings.out, stage="pretrain", config=settings, inputs=inputs)
    with folder.atomic_folder(settings.out / "checkpoints") as work:
        shutil.copytree(origin, work / origin.name)
        folder.write_text(work / checkpoint.LATEST, origin.name)
