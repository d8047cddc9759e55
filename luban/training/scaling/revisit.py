"""Stage `scaling show`: the tables of a finished grid again, as text or Markdown, and answers for other budgets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from luban.training.scaling import RESULTS, answer
from luban.training.scaling.config import Question


@dataclass(frozen=True, kw_only=True)
class Config(Question):
    """Show what `luban scaling` found, without training; the fits are made again from the cells."""

    POSITIONAL: ClassVar[str] = "out"

    out: Path
    """Folder of a grid."""
    markdown: bool = False
    """Print the tables as Markdown, for a page."""


def run(config: Config) -> dict[str, Any]:
    """The results of the grid in `out`, with the advice asked for, and their Markdown if that is asked for."""
    from luban.folder import read_json
    from luban.training.scaling.analysis import analyse, as_numbers
    from luban.training.scaling.points import Point
    from luban.training.scaling.report import markdown

    kept = read_json(config.out / RESULTS)
    names = [field.name for field in dataclasses.fields(Point)]
    points = [Point(**{name: cell[name] for name in names}) for cell in kept["cells"]]
    analysis = analyse(points, resamples=kept["resamples"], seed=kept["seed"])
    results = {**kept, **as_numbers(analysis), **answer(analysis, config)}
    return {**results, "markdown": markdown(results)} if config.markdown else results


def show(results: dict[str, Any]) -> None:
    """The tables, or the Markdown."""
    from luban.training.scaling.report import show as show_tables

    if "markdown" in results:
        print(results["markdown"])
    else:
        show_tables(results)
