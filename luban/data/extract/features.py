"""What tells text from navigation: numbers for each block of a page, by arithmetic over intervals of blocks.

Its own size, signs and element; elements around it and what their class names say; its neighbours and place; size,
density and share of the page of three containers; where it stands to the likeliest ones. The kernel is small beside
reading the page; `tests/data/extract/numpy_features.py` spells the same numbers out in array arithmetic.

Sources: text and link density, Kohlschütter et al. 2010 (boilerpipe); candidate scores, Mozilla's Readability.
"""

from __future__ import annotations

import functools
from ctypes import CDLL, c_int64
from pathlib import Path

import numpy as np

from luban.data.extract.blocks import Page
from luban.native.build import load, pointer

FEATURES = 141
"""Numbers for a block: the net's weights have so many rows."""


def features(page: Page) -> np.ndarray:
    """A float32 row for each block."""
    table = np.empty((len(page.block_rows), FEATURES), np.float32)
    _library().block_features(
        pointer(page.block_rows, np.int32), c_int64(len(page.block_rows)),
        pointer(page.node_rows, np.int32), c_int64(len(page.node_rows)), pointer(table, np.float32),
    )  # fmt: skip
    return table


@functools.cache
def _library() -> CDLL:
    return load(Path(__file__).with_name("features.cpp"))
