"""Stage `scaling`: how loss falls with size, data and compute on your text, and what to train for a budget.

    a grid of runs -> held-out losses -> a law and IsoFLOP curves, with intervals -> advice, tables, pictures
    grid, cells       points             law, isoflop, bootstrap (analysis)         advice, report, plots

Every run is a folder of `luban pretrain` below `out`, so a grid that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luban.errors import ConfigError, DataError
from luban.lm import OpenLM
from luban.training.scaling.config import Config, Question

if TYPE_CHECKING:
    from luban.training.scaling.analysis import Analysis
    from luban.training.scaling.grid import Cell
    from luban.training.scaling.points import Point

__all__ = ["Config", "answer", "run", "show"]

STAGE = "scaling"
RESULTS = "scaling.json"


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """Train what is not trained yet; returns the cells, both fits with intervals, and the advice asked for."""
    from luban.folder import describe, finish, write_json
    from luban.training.scaling.analysis import analyse, as_numbers
    from luban.training.scaling.plots import draw

    planned, vocab = _plan(config)
    inputs = [*config.data, config.tokenizer, config.validation]
    write_json(config.out / "run.json", describe(STAGE, config, inputs))
    points = _train(planned, vocab, config, open_lm)
    seed = min(config.seeds)
    analysis = analyse(points, resamples=config.resamples, seed=seed)
    results = {
        **as_numbers(analysis),
        "settings": _shared_settings(config),
        "resamples": config.resamples,
        "seed": seed,
    }
    write_json(config.out / RESULTS, results)
    draw(analysis, config.out)
    results |= answer(analysis, config)
    finish(config.out, results)
    return results


def show(results: dict[str, Any]) -> None:
    """The tables."""
    from luban.training.scaling.report import show as show_tables

    show_tables(results)


def answer(analysis: Analysis, question: Question) -> dict[str, Any]:
    """The advice for the budget or the time asked about; nothing if nothing is asked."""
    from luban.training.scaling import advice

    asked: dict[str, Any] = {}
    if question.budget:
        asked["for_budget"] = advice.for_compute(analysis, question.budget)
    if question.minutes:
        asked["for_minutes"] = advice.for_minutes(analysis, question.minutes)
    return asked


def _plan(config: Config) -> tuple[list[Cell], int]:
    """The runs, and the size of the vocabulary; raises before hours of training for what cannot be fitted."""
    from luban.models import FAMILIES
    from luban.tokenizers.files import load
    from luban.training.scaling import grid

    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        what = f"a grid is trained by one process, and torchrun started {processes}"
        raise ConfigError(what, where=f"luban {STAGE}", hint="run it without torchrun")
    vocab = load(config.tokenizer).vocab_size
    if config.model_type in FAMILIES and FAMILIES[config.model_type].kind != "causal":
        what = f"'{config.model_type}' is not trained on next tokens"
        raise ConfigError(what, where="setting 'model_type'", hint="--model-type llama")
    for path in (*config.data, config.validation):
        if not (path / "index.json").is_file():
            raise DataError("no token shards", where=path, hint="luban data shards makes them")
    return grid.cells(config, grid.sizes(config, vocab)), vocab


def _train(planned: Sequence[Cell], vocab: int, config: Config, open_lm: OpenLM) -> list[Point]:
    from luban import device
    from luban.training.scaling import cells
    from luban.training.scaling.forecast import Progress, expected_seconds

    place = device.start(config, seed=min(config.seeds))
    done = [cell for cell in planned if cells.finished(cell, config)]
    progress = Progress(expected=expected_seconds(planned, done, config, vocab, place))
    progress.announce()
    points: list[Point] = []
    for number, cell in enumerate(planned):
        point = cells.train(cell, planned[:number], config, open_lm)
        points.append(point)
        _write_log(config, points)
        progress.advance(f"{cell.name}: {point.loss:.3f} nats")
    return points


def _write_log(config: Config, points: Sequence[Point]) -> None:
    """The finished runs as JSON lines, to be watched while the others train."""
    from luban.folder import write_text

    lines = [json.dumps(dataclasses.asdict(point)) for point in points]
    write_text(config.out / "log.jsonl", "".join(f"{line}\n" for line in lines))


def _shared_settings(config: Config) -> dict[str, Any]:
    """What all runs have in common and a reader of the figures must know."""
    names = ("model_type", "learning_rate", "warmup_steps", "decay_ratio", "per_device_train_batch_size")
    return {name: getattr(config, name) for name in (*names, "max_length", "seeds")}
