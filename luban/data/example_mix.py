"""Examples to what the loader draws from: some held out, the others by file, each with its share.

Without weights all examples are one source, shuffled together. With weights, or a temperature, each file is a
source of its own and gets its share of the tokens however large it is: a small one comes round more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from luban.data.conversations import Examples
from luban.data.loader import Source
from luban.errors import ConfigError, DataError

ALL = "conversations"

Pair = tuple[np.ndarray, np.ndarray]


def check_weights(paths: Sequence[Path], weights: Sequence[float], temperature: float = 1.0) -> None:
    """Raise ConfigError unless there is one weight per path, and nothing is said twice."""
    if weights and len(weights) != len(paths):
        what = f"{len(weights)} weights for {len(paths)} paths of data"
        raise ConfigError(what, where="setting 'weights'", hint="give one weight per path")
    if weights and temperature != 1:
        raise ConfigError(
            "weights are given, so shares by temperature are not", where="setting 'temperature'"
        )
    if (weights or temperature != 1) and len({*map(str, paths)}) < len(paths):
        raise ConfigError("a path is named twice", where="setting 'data'", hint="give it a larger weight")


def split(
    examples: Examples, *, validation: float = 0.0, seed: int = 0, max_rows: int | None = None
) -> tuple[list[int], list[int]]:
    """Numbers of the examples to train on and of those held out, a share of `validation`, drawn with the seed."""
    order = np.random.default_rng(seed).permutation(len(examples))[:max_rows].tolist()
    held = round(validation * len(order))
    return order[held:], order[:held]


def sources(
    examples: Examples,
    numbers: Sequence[int],
    paths: Sequence[Path],
    *,
    weights: Sequence[float] = (),
    temperature: float = 1.0,
) -> list[Source]:
    """The examples of these numbers as the loader's sources: one, or with shares one per path.

    `weights` are shares of the tokens, relative to each other; without them they are
    size^(1/temperature), size in tokens: 1 keeps the sizes' proportions, more lifts small files (Raffel et al. 2020,
    arXiv:1910.10683, sec. 3.5.2). Raises ConfigError as `check_weights` does, DataError for a path without examples.
    """
    check_weights(paths, weights, temperature)
    if not weights and temperature == 1:
        return [Source(examples=[examples[number] for number in numbers], name=ALL)]
    parts: list[list[Pair]] = [[] for _ in paths]
    for number in numbers:
        parts[int(np.searchsorted(examples.ends, number, side="right"))].append(examples[number])
    for path, part in zip(paths, parts, strict=True):
        if not part:
            raise DataError("no row of it is left to train on", where=path, hint="a smaller --validation")
    shares = weights or [sum(len(ids) for ids, _ in part) ** (1 / temperature) for part in parts]
    return [
        Source(examples=part, weight=float(share), name=str(path))
        for path, part, share in zip(paths, parts, shares, strict=True)
    ]
