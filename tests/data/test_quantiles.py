"""Quantiles of values in many arrays."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from luban.data.quantiles import quantile

VALUES = st.lists(st.floats(0, 2**100, width=32), max_size=40)


@given(st.lists(VALUES, max_size=4), st.floats(0.001, 1))
def test_a_quantile_is_the_value_at_its_rank(parts: list[list[float]], share: float) -> None:
    arrays = [np.array(part, np.float32) for part in parts]
    ordered = np.sort(np.concatenate([np.zeros(0, np.float32), *arrays]))
    found = quantile(lambda: arrays, share)
    if not len(ordered):
        assert np.isnan(found)
    else:
        assert found == ordered[max(int(np.ceil(share * len(ordered))), 1) - 1]


def test_what_is_no_number_is_left_out() -> None:
    arrays = [np.array([np.nan, 3, np.nan], np.float32), np.array([1, 2, np.inf], np.float32)]
    assert quantile(lambda: arrays, 0.5) == 2
    assert quantile(lambda: arrays, 1.0) == np.inf
    assert np.isnan(quantile(lambda: [np.full(3, np.nan, np.float32)], 0.5))
