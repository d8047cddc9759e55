"""Windows of a batch in which personal data may stand, so that patterns never meet clean text."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from luban.data.step import Packed
from luban.native.build import load, pointer

AT, NUMBER, COLONS, IBAN, TOKEN, PEM = range(6)
"""What was seen: an @; at least 7 digits with short gaps (or 4 with three dots); hexadecimal groups with colons;
two capitals and two digits; a run of 16 or more letters and digits mixed; `-----BEGIN`."""


def candidates(packed: Packed) -> np.ndarray:
    """Rows of (text, group, start, end), sorted by text; offsets are bytes within the text."""
    scan = load(Path(__file__).with_name("candidates.cpp")).candidates
    scan.restype = ctypes.c_int64
    capacity = max(1024, len(packed.buffer) // 256)
    while True:
        found = np.empty((capacity, 4), np.int64)
        count = scan(
            *packed.arguments,
            ctypes.c_int64(capacity),
            pointer(found, np.int64),
        )
        if count <= capacity:
            return found[:count]
        capacity = count
