"""Copies and shards of a model: whatever is shared out among them, the run is the one process's, in fewer bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from luban.errors import ConfigError
from luban.training.config import OptimizerConfig, ParallelConfig
from luban.training.parallel.norms import local
from luban.training.parallel.spread import Spread, check, spread
from luban.training.parallel.whole import gathered
from luban.training.parallel.world import World, joined
from luban.training.step import Updater, next_token
from tests import tiny
from tests.ranks import run_ranks
from tests.training.test_step import cut, ragged_rows

LAYOUTS = {
    "ddp": ParallelConfig(),
    "zero 1": ParallelConfig(zero=1),
    "zero 2": ParallelConfig(zero=2),
    "zero 3": ParallelConfig(zero=3),
    "offload": ParallelConfig(zero=3, offload=True),
}
MODELS = {
    "tied": lambda: tiny.llama(tied=True),
    "untied": tiny.llama,
    "gpt2": tiny.gpt2,
    "experts": lambda: tiny.llama(model_type="mixtral", experts=4, experts_per_token=1),
}
RUNS = [
    (layout, name) for layout in LAYOUTS for name in MODELS if name == "tied" or layout in ("ddp", "zero 3")
]
STEPS = 4
# Adam divides by a gradient's size: where that is next to nothing, rounding would decide which way a weight goes.
OPTIMIZER = OptimizerConfig(adam_epsilon=1e-3)
FLOAT = 4
"""Bytes of a number."""

Run = tuple[list[tuple[float, float]], dict[str, np.ndarray]]


def train(laid_out: Spread, batches: list[Any]) -> list[tuple[float, float]]:
    """Loss and gradient norm of each of a few steps."""
    optimizer = laid_out.optimizer(OPTIMIZER)
    updater = Updater(optimizer, laid_out.gradients(next_token()), max_grad_norm=1.0)
    updates = [updater.update(batches, learning_rate=1e-2) for _ in range(STEPS)]
    return [(update.loss, update.grad_norm) for update in updates]


def made(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name]()


def arrays(model: Any) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def one_process(name: str, rows: int = 8) -> Run:
    model = made(name)
    updates = train(spread(model), cut(ragged_rows(), rows))
    return updates, arrays(model)


def copies() -> dict[Any, Any]:
    """All that the tests of two copies look at."""
    found: dict[Any, Any] = {}
    with joined(ParallelConfig(), torch.device("cpu")) as world:
        for layout, name in RUNS:
            found[layout, name] = run(name, world, LAYOUTS[layout], rows=4 if name == "tied" else 1)
        for layout, config in LAYOUTS.items():
            found[layout, "bytes"] = bytes_of(world, config)
            found[layout, "held out"] = held_out(world, config)
        found["messages"] = messages(world)
    return found


def run(name: str, world: World, config: ParallelConfig, rows: int) -> Run:
    """A few steps in which each copy reads every other piece of the rows."""
    model = made(name)
    updates = train(spread(model, world, config), cut(ragged_rows(), rows)[world.rank :: 2])
    whole = gathered(model, world)
    return updates, {} if whole is None else arrays(whole)


def bytes_of(world: World, config: ParallelConfig) -> dict[str, int]:
    """Bytes of weights and optimizer state that this process holds between two steps, and of gradients within one."""
    laid_out, rows = spread(made("untied"), world, config), cut(ragged_rows(), 4)[world.rank :: 2]
    optimizer, gradients = laid_out.optimizer(OPTIMIZER), laid_out.gradients(next_token())
    gradients.sum(rows)
    within = held(p.grad for p in laid_out.model.parameters() if p.grad is not None)
    optimizer.zero_grad()
    Updater(optimizer, gradients, max_grad_norm=1.0).update(rows, learning_rate=1e-2)
    states = getattr(optimizer, "optim", optimizer).state.values()
    return {
        "weights": held(laid_out.model.parameters()),
        "gradients": within,
        "optimizer": held(value for state in states for key, value in state.items() if key != "step"),
    }


def held(tensors: Any) -> int:
    return sum(local(tensor).nbytes for tensor in tensors)


def held_out(world: World, config: ParallelConfig) -> tuple[float, float]:
    """The loss without gradients, before and after a step, and that training goes on after it."""
    laid_out = spread(made("untied"), world, config)
    rows = cut(ragged_rows(), 4)[world.rank]
    ask = laid_out.asked(next_token())
    with torch.no_grad():
        before = world.total(ask(laid_out.model, rows).loss.item())[0]
    updates = train(laid_out, [rows])
    return before, updates[0][0]


def messages(world: World) -> list[int]:
    """How often a copy sends gradients in a step of one, and of four micro-batches."""
    counts = []
    for rows in (4, 1):
        laid_out: Any = spread(made("untied"), world, ParallelConfig())
        sent = []
        laid_out.ddp.register_comm_hook(sent, counting)
        laid_out.gradients(next_token()).sum(cut(ragged_rows(), rows)[world.rank :: 2])
        counts.append(len(sent))
    return counts


def counting(sent, bucket):
    # Without annotations: DDP reads those of hooks, which are strings in this file.
    sent.append(bucket.index())
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


@pytest.fixture(scope="module")
def found() -> list[dict[Any, Any]]:
    return run_ranks(2, copies)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "name"), RUNS, ids=lambda value: value)
def test_two_processes_train_as_one_does(layout: str, name: str, found: list[dict[Any, Any]]) -> None:
    updates, weights = found[0][layout, name]
    rows = 8 if name != "experts" else 1  # how evenly experts are used is judged in each micro-batch
    expected, expected_weights = one_process(name, rows)
    for (loss, norm), (one_loss, one_norm) in zip(updates, expected, strict=True):
        assert loss == pytest.approx(one_loss, abs=1e-6)
        assert norm == pytest.approx(one_norm, abs=1e-6)
    assert list(weights) == list(expected_weights)
    for key, weight in weights.items():
        np.testing.assert_allclose(weight, expected_weights[key], atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_process_is_told_the_sums_of_all(layout: str, found: list[dict[Any, Any]]) -> None:
    first, second = (rank[layout, "tied"][0] for rank in found)
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "shared_out"),
    [
        ("ddp", ()),
        ("zero 1", ("optimizer",)),
        ("zero 2", ("weights", "gradients", "optimizer")),  # within a step it holds whole weights
        ("zero 3", ("weights", "gradients", "optimizer")),
    ],
)
def test_what_zero_shares_out_is_half_as_large_on_each_of_two(
    layout: str, shared_out: tuple[str, ...], found: list[dict[Any, Any]]
) -> None:
    model = made("untied")
    whole = FLOAT * sum(p.numel() for p in model.parameters())
    largest = FLOAT * max(p.numel() for p in model.parameters())
    expected = {"weights": whole, "gradients": whole, "optimizer": 2 * whole}
    for part, size in expected.items():
        first, second = (rank[layout, "bytes"][part] for rank in found)
        if part not in shared_out:
            assert (first, second) == (size, size)
        elif layout == "zero 1":  # parameters are not cut, so halves may differ by one of them
            assert first + second == size
            assert abs(first - second) <= 2 * largest
        else:
            assert (first, second) == (size // 2, size // 2)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_held_out_loss_is_that_of_all_rows_and_training_goes_on_after_it(
    layout: str, found: list[dict[Any, Any]]
) -> None:
    targets = ragged_rows().target_count
    expected = next_token()(made("untied"), ragged_rows()).loss.item()
    before, trained = found[0][layout, "held out"]
    assert before == pytest.approx(expected, rel=1e-6)
    assert trained == pytest.approx(expected / targets, abs=1e-6)


@pytest.mark.slow
def test_gradients_travel_once_a_step_however_many_micro_batches(found: list[dict[Any, Any]]) -> None:
    one, four = found[0]["messages"]
    assert one == four > 0


@pytest.mark.parametrize(
    ("config", "world", "told"),
    [
        (ParallelConfig(zero=3), World(), "zero=3 shares out among copies, and dp is 1"),
        (ParallelConfig(offload=True, zero=1), World(dp=2), "offload is with zero 2 or 3, and zero is 1"),
        (ParallelConfig(compress="onebit", zero=2), World(dp=2), "compress=onebit and zero=2 do not go"),
        (ParallelConfig(compress="onebit"), World(), "compress=onebit is for copies, and dp is 1"),
        (ParallelConfig(pp=2, zero=3), World(dp=2, pp=2), "pp=2 and zero=3 do not go together"),
        (ParallelConfig(tp=2, zero=1), World(dp=2, tp=2), "tp=2 and zero=1 do not go together"),
    ],
)
def test_settings_that_exclude_each_other_are_both_named(
    config: ParallelConfig, world: World, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        check(config, world)
