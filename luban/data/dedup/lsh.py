"""The S-curve of banded hashing: how likely two documents meet, and which bands suit a threshold."""

from __future__ import annotations

import functools

import numpy as np

STEPS = 1000
"""The curve is integrated over so many slices."""


def meeting_chance(jaccard: np.ndarray | float, *, bands: int, rows: int) -> np.ndarray:
    """The probability that two documents of this similarity agree in all rows of at least one band."""
    return 1 - (1 - np.asarray(jaccard, np.float64) ** rows) ** bands


@functools.cache
def choose_bands(threshold: float, hashes: int) -> tuple[int, int]:
    """Bands and rows, together at most `hashes`, with the least pairs on the wrong side of `threshold`.

    Pairs below it that meet and pairs above it that do not weigh the same, all similarities alike.

    Source: Zhu et al. 2016, LSH Ensemble, section 5 (what datasketch does too): 128 hashes at 0.8 make 9 bands of
    13 rows, the figures of SlimPajama.
    """
    similarity = (np.arange(STEPS) + 0.5) / STEPS
    choices = [(bands, rows) for bands in range(1, hashes + 1) for rows in range(1, hashes // bands + 1)]

    def errors(choice: tuple[int, int]) -> float:
        chance = meeting_chance(similarity, bands=choice[0], rows=choice[1])
        return float(np.where(similarity < threshold, chance, 1 - chance).sum())

    return min(choices, key=errors)
