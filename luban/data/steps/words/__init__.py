"""The word lists that filters share, read once per process."""

from __future__ import annotations

import functools
from pathlib import Path

FOLDER = Path(__file__).parent


def lines_of(name: str) -> list[str]:
    """The lines of `NAME.txt` without comments and empty ones."""
    lines = (line.strip() for line in (FOLDER / f"{name}.txt").read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@functools.cache
def words_of(name: str) -> frozenset[str]:
    """The words of `NAME.txt`; empty if there is no such list (a language without one)."""
    if not (FOLDER / f"{name}.txt").is_file():
        return frozenset()
    return frozenset(word for line in lines_of(name) for word in line.split())
