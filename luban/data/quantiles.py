"""Exact quantiles of values that lie in many files, in two passes and little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

CHUNK = 1 << 20
HALF = 16


def quantile(parts: Callable[[], Iterable[np.ndarray]], share: float) -> float:
    """The smallest of the values such that at least `share` of them are not above it.

    `parts()` gives float32 arrays of values >= 0 and is called twice; NaN is left out. NaN if nothing is left.
    Not negative, so a value's bits as an integer order as it does: the first pass finds the upper half of the
    answer's bits, the second the lower half.
    """
    upper = _histogram(parts, None)
    total = int(upper.sum())
    if not total:
        return float("nan")
    rank = max(int(np.ceil(share * total)), 1)
    high = int(np.searchsorted(np.cumsum(upper), rank))
    rest = rank - int(upper[:high].sum())
    low = int(np.searchsorted(np.cumsum(_histogram(parts, high)), rest))
    return float(np.array([high << HALF | low], np.uint32).view(np.float32)[0])


def _histogram(parts: Callable[[], Iterable[np.ndarray]], high: int | None) -> np.ndarray:
    """How often each upper half of bits occurs, or each lower half under the upper half `high`."""
    counts = np.zeros(1 << HALF, np.int64)
    for bits in _chunks(parts()):
        chosen = bits >> HALF if high is None else bits[bits >> HALF == high] & ((1 << HALF) - 1)
        counts += np.bincount(chosen.astype(np.intp), minlength=1 << HALF)
    return counts


def _chunks(arrays: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for array in arrays:
        assert array.dtype == np.float32
        for begin in range(0, len(array), CHUNK):
            values = np.asarray(array[begin : begin + CHUNK])
            values = values[~np.isnan(values)] + np.float32(0)  # -0.0 becomes 0.0
            yield np.ascontiguousarray(values).view(np.uint32)
