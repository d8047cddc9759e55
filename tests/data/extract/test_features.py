"""The kernel's numbers are those that array arithmetic gives, whatever the page."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from luban.data.extract.blocks import read_page
from luban.data.extract.features import FEATURES, features
from tests.data.extract import numpy_features
from tests.data.extract.test_blocks import SOUP
from tests.data.steps.test_extract import PAGE


def assert_as_by_arrays(html: str) -> None:
    page = read_page(html)
    if len(page.block_rows):
        # NumPy's own float32 logarithm is one bit off here and there.
        np.testing.assert_allclose(features(page), numpy_features.features(page), rtol=2e-7, atol=1e-7)


@settings(deadline=None, max_examples=300)
@given(SOUP)
def test_any_markup_has_the_features_that_array_arithmetic_gives(pieces: list[str]) -> None:
    assert_as_by_arrays("".join(pieces))


@pytest.mark.parametrize("times", [1, 3, 40])
def test_a_whole_page_has_the_features_that_array_arithmetic_gives(times: int) -> None:
    assert_as_by_arrays(PAGE * times)


def test_a_page_without_blocks_has_no_rows() -> None:
    assert features(read_page("<br>")).shape == (0, FEATURES)
