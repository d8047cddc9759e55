"""docs/families.md says what the code says, and states no smaller distance than there is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from luban.models import FAMILIES
from tests.models.families_page import ELSEWHERE, PAGE, ROOT, bound, page, stated_in
from tests.models.parity import families, measure

STATED, VERSION = stated_in(PAGE.read_text(encoding="utf-8"))


def test_the_page_is_what_the_code_makes_of_its_distances() -> None:
    again = "python -m tests.models.families_page"
    assert page(STATED, VERSION) == PAGE.read_text(encoding="utf-8"), f"write it again: {again}"


def test_every_family_is_compared_with_something() -> None:
    assert sorted([*families(), *ELSEWHERE]) == sorted(FAMILIES)
    for name in ELSEWHERE:
        tests = [
            path for path in (ROOT / "tests" / "models").glob("test_*.py") if name in path.read_text("utf-8")
        ]
        assert tests, name


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny products wait longer for a second thread than they take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("family", families())
def test_measured_distances_are_below_the_stated_ones(family: str) -> None:
    errors = measure(family)
    assert errors.keys() == STATED[family].keys()
    for way, error in errors.items():
        assert error <= float(STATED[family][way]) <= 1e-4, (way, error)


@pytest.mark.parametrize(
    ("error", "stated"), [(0.0, "1e-06"), (4e-7, "2e-06"), (6e-7, "2e-06"), (2e-6, "1e-05"), (1e-5, "5e-05")]
)
def test_a_distance_is_rounded_up_from_three_times_it(error: float, stated: str) -> None:
    assert bound(error) == stated
