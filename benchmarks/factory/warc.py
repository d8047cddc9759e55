"""From a crawl to token shards: `luban data prepare` on a WARC file of real pages, then `luban data shards`.

Whole commands, start-up included. Recipes extract, identify languages, filter and deduplicate; refinedweb's
MinHash has 9,000 hashes.
"""

from __future__ import annotations

import shutil
import tempfile
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

from factory.command import WORKERS, luban, prepare
from factory.measure import Run, in_turn, save, spread, table
from factory.web import crawl
from luban.folder import read_json


def run(options: Namespace) -> None:
    pages, recipe = crawl(options.megabytes), options.recipe
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _prepare(pages, recipe, folder / "docs")
        luban(
            "tokenizer", "train", "--data", folder / "docs", "--out", folder / "tokenizer", "--vocab", "8192"
        )
        stages = {
            "prepare": lambda: _prepare(pages, recipe, folder / "docs"),
            "shards": lambda: _shards(folder),
        }
        runs = in_turn(stages, options.rounds)
        peaks = {
            "prepare": _prepare(pages, recipe, folder / "docs", sample_s=0.05).peak_mb,
            "shards": _shards(folder, sample_s=0.05).peak_mb,
        }
        figures = read_json(folder / "docs" / "run.json")["metrics"]["stages"]
        seconds = _seconds(folder / "docs")
        tokens = read_json(folder / "shards" / "run.json")["metrics"]["tokens"]
    html = figures[0]["bytes_in"] / 1e6
    text = next(stage["bytes_kept"] for stage in figures if stage["name"] in ("text", "pages")) / 1e6
    kept = figures[-1]["bytes_kept"] / 1e6
    found: dict[str, Any] = {
        "html_mb": html,
        "text_mb": text,
        "kept_mb": kept,
        "tokens": tokens,
        "speed": [
            _row(stage, runs[stage], size, peaks[stage])
            for stage, size in (("prepare", {"HTML": html, "text": text}), ("shards", {"text": kept}))
        ],
        "stages": [
            {key: stage[key] for key in ("name", "documents_in", "documents_kept")} for stage in figures
        ],
        "seconds_by_step": seconds,
    }
    title = (
        f"WARC to shards, recipe {recipe}: {html:.1f} MB of HTML, {text:.1f} MB of text, {kept:.1f} MB kept"
    )
    table(f"{title}; {WORKERS} workers", found["speed"])
    table("stages", found["stages"])
    table("seconds by step, both workers together", [seconds])
    print(save(f"warc-{Path(recipe).stem}", found))


def _prepare(pages: Path, recipe: str, out: Path, *, sample_s: float | None = None) -> Run:
    return prepare(pages, out, "--part-mb", "4", recipe=recipe, sample_s=sample_s)


def _shards(folder: Path, *, sample_s: float | None = None) -> Run:
    shutil.rmtree(folder / "shards", ignore_errors=True)
    words = ["--data", folder / "docs", "--tokenizer", folder / "tokenizer", "--out", folder / "shards"]
    return luban("data", "shards", *words, "--workers", str(WORKERS), sample_s=sample_s)


def _seconds(out: Path) -> dict[str, float]:
    """What each step took, as the run itself counted it."""
    steps: dict[str, float] = {}
    for path in sorted(out.glob("stages/*/stats.json")):
        steps |= read_json(path)["seconds"]
    return {name: round(value, 2) for name, value in steps.items()}


def _row(stage: str, runs: list[Run], sizes: dict[str, float], peak: float) -> dict[str, Any]:
    walls = [one.wall_s for one in runs]
    speeds = {f"MB {what}/s": round(size / median(walls), 1) for what, size in sizes.items()}
    return {
        "": stage,
        "wall s": spread(walls),
        "CPU s": spread([one.cpu_s for one in runs]),
        **speeds,
        "peak MB": peak,
    }
