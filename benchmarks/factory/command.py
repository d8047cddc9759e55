"""`luban data prepare` as a user starts it, measured."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from factory.measure import Run, command

HERE = Path(__file__).parent
WORKERS = 2


def prepare(data: Path, out: Path, *more: str, recipe: str | Path, sample_s: float | None = None) -> Run:
    """A run into an empty folder, nothing held out."""
    shutil.rmtree(out, ignore_errors=True)
    words = ["data", "prepare", "--data", data, "--out", out, "--recipe", recipe, "--holdout", "0"]
    return luban(*words, "--workers", str(WORKERS), *more, sample_s=sample_s)


def luban(*words: str | Path, sample_s: float | None = None) -> Run:
    return command([sys.executable, "-m", "luban", *words], sample_s=sample_s)
