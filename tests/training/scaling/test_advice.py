"""What to train for a budget or a time, and when the answer is only a guess."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from luban.training.scaling import advice
from luban.training.scaling.analysis import Analysis, analyse
from luban.training.scaling.config import Config
from luban.training.scaling.grid import sizes as sizes_of
from luban.training.scaling.law import CHINCHILLA, Law
from tests.training.scaling.planted import BUDGETS, grid


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(grid(noise=0.002), resamples=50, seed=0)


def test_a_budget_gets_the_best_size_of_the_law_and_its_loss(analysis: Analysis) -> None:
    told = advice.for_compute(analysis, 5e20)
    weights, tokens = CHINCHILLA.best(5e20)
    assert told["weights"]["value"] == pytest.approx(weights, rel=0.1)
    assert told["tokens"]["value"] == pytest.approx(tokens, rel=0.1)
    assert told["tokens_per_weight"] == pytest.approx(tokens / weights, rel=0.2)
    assert told["loss"]["value"] == pytest.approx(CHINCHILLA.loss(weights, tokens), rel=0.005)
    assert told["loss"]["low"] < told["loss"]["value"] < told["loss"]["high"]
    assert told["bits_per_byte"]["value"] == pytest.approx(told["loss"]["value"] / 2)
    assert told["isoflop"]["weights"] == pytest.approx(weights, rel=0.5)
    assert not told["warnings"]


def test_the_proposed_shape_has_about_the_weights_that_are_wanted() -> None:
    here = Path("here")
    settings = Config(
        data=(here,), tokenizer=here, validation=here, out=here, sizes=("1x32", "4x128", "6x256")
    )
    sizes = sizes_of(settings, 1024)
    known = dataclasses.replace(grid()[0], size=sizes[1].name, weights=sizes[1].weights, body=sizes[1].body)
    for size in sizes:
        assert advice.nearest_size(size.weights, [known]) == size.name


@pytest.mark.parametrize(
    ("compute", "guess"), [(max(BUDGETS) * 9, False), (max(BUDGETS) * 11, True), (min(BUDGETS) / 11, True)]
)
def test_a_budget_ten_times_beyond_the_grid_is_called_a_guess(
    analysis: Analysis, compute: float, guess: bool
) -> None:
    told = " ".join(advice.for_compute(analysis, compute)["warnings"])
    assert ("the compute is 11 times beyond the grid: a guess" in told) == guess


def test_text_that_would_come_too_often_is_told(analysis: Analysis) -> None:
    passes = CHINCHILLA.best(1e24)[1] / 1e12  # a planted point says that the text has 1e12 tokens
    assert passes > advice.MOST_EPOCHS
    assert "the training text would be gone through" in " ".join(
        advice.for_compute(analysis, 1e24)["warnings"]
    )


def test_an_exponent_at_the_end_of_its_range_is_told() -> None:
    steep = Law(e=2.0, a=1e40, b=410.7, alpha=4.9, beta=0.28)
    told = advice.for_compute(analyse(grid(steep), resamples=5, seed=0), 1e20)["warnings"]
    assert any(line.startswith("alpha lies at the end") for line in told)


def test_minutes_become_compute_by_the_speed_of_the_grid(analysis: Analysis) -> None:
    """Planted points run at 1e12 FLOP/s whatever their size."""
    told = advice.for_minutes(analysis, 60 * 24)
    assert told["flops"] == pytest.approx(86400 * 1e12, rel=1e-6)
    assert told["weights"] == advice.for_compute(analysis, told["flops"])["weights"]
    assert told["tokens_per_second"] * 86400 == pytest.approx(told["tokens"]["value"])
