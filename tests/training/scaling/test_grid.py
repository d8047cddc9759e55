"""The runs of a grid: their compute, steps and settings, and what cannot be a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luban.errors import ConfigError
from luban.training.optim import learning_rate_at
from luban.training.scaling import grid
from luban.training.scaling.config import Config

HERE = Path("here")


def config(**changes: Any) -> Config:
    return Config(data=(HERE,), tokenizer=HERE, validation=HERE, out=HERE, **changes)


def planned(**changes: Any) -> list[grid.Cell]:
    settings = config(**changes)
    return grid.cells(settings, grid.sizes(settings, 1024))


def test_every_size_spends_every_budget_to_half_a_step() -> None:
    cells = planned()
    assert len(cells) == 5 * 4
    for cell in cells:
        assert abs(cell.flops - cell.budget) <= cell.step_tokens * cell.size.flops_per_token / 2


def test_weights_are_those_of_the_blocks_and_the_head() -> None:
    size = grid.sizes(config(sizes=("2x64", "2x128", "4x128")), 1024)[0]
    assert size.body == 2 * (4 * 64 * 64 + 3 * 64 * 192)  # 8/3 of the width, rounded up to 32
    assert size.weights == size.body + 1024 * 64


def test_sizes_are_trained_from_small_to_large_and_budgets_too() -> None:
    cells = planned(sizes=("4x128", "2x48", "3x64"), flops=(4e12, 1e12))
    assert [cell.name for cell in cells[:3]] == [
        "2x48-1e+12-seed0",
        "2x48-4e+12-seed0",
        "3x64-1e+12-seed0",
    ]


def test_the_learning_rate_is_inverse_to_the_width() -> None:
    rates = [size.learning_rate(3e-3) for size in grid.sizes(config(sizes=("1x32", "1x128", "1x512")), 1024)]
    assert rates == pytest.approx([12e-3, 3e-3, 0.75e-3])


def test_runs_of_a_size_have_one_learning_rate_until_the_shorter_begins_to_fall() -> None:
    short, long = planned(decay_ratio=0.3)[:2]
    rates = [grid.run_config(cell, config(decay_ratio=0.3)).optimizer for cell in (short, long)]
    for step in range(short.stable):
        of_short, of_long = (
            learning_rate_at(step, cell.steps, rate) for cell, rate in zip((short, long), rates, strict=True)
        )
        assert of_short == of_long
    assert learning_rate_at(short.stable + 1, short.steps, rates[0]) < rates[0].learning_rate
    assert learning_rate_at(short.steps, short.steps, rates[0]) == 0


def test_a_longer_run_has_to_see_only_what_a_shorter_one_has_not() -> None:
    cells = planned()
    short, long = cells[0], cells[1]
    assert grid.new_tokens(short, cells) == short.tokens
    assert grid.new_tokens(long, cells) == long.tokens - short.stable * short.step_tokens


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "gpt2"},
        {"sizes": ("1x32", "2x48", "3x64")},
        {"flops": (1e12, 3e12)},
        {"learning_rate": 2e-3},
        {"warmup_steps": 3},
        {"decay_ratio": 0.3},
        {"per_device_train_batch_size": 2},
        {"max_length": 64},
        {"eval_batches": 7},
        {"seeds": (1,)},
        {"threads": 1},
        {"device": "cpu"},
    ],
)
def test_each_setting_of_the_grid_reaches_the_runs(changes: dict[str, Any]) -> None:
    def runs(**changes: Any) -> list[Any]:
        return [grid.run_config(cell, config(**changes)) for cell in planned(**changes)]

    assert runs(**changes) != runs()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": ("2x64", "big", "3x96")}, "'big' is no LAYERSxDIM"),
        ({"sizes": ("2x64", "2x64", "3x96")}, "two sizes have equally many weights"),
        ({"sizes": ("2x64", "3x96")}, "2 sizes by 4 budgets tell no law"),
        ({"flops": (1e12, 1e12)}, "5 sizes by 1 budgets tell no law"),
        ({"flops": (1e6, 2e6)}, "budgets too small to tell apart"),
        ({"seeds": ()}, "give at least one seed"),
        ({"model_type": "lama"}, "no family 'lama'; did you mean 'llama'?"),
    ],
)
def test_what_is_no_grid_is_refused_before_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        planned(**changes)
