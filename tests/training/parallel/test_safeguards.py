"""The safeguards on two processes: what goes wrong on one is left out on both, and recomputing changes nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from luban.data.batch import Batch
from luban.training.config import GuardConfig, ParallelConfig
from luban.training.guard import Guard
from luban.training.parallel.spread import spread
from luban.training.parallel.world import ALONE, World, joined
from luban.training.precision import Scaler, in_precision
from luban.training.recompute import recompute_blocks
from luban.training.step import OVERFLOW, Step, Update, Updater, next_token
from tests import tiny
from tests.ranks import run_ranks
from tests.training.parallel.test_data import OPTIMIZER
from tests.training.test_step import cut, ragged_rows

SHARDED = ParallelConfig(zero=3)
DIVIDED = {"pp": ParallelConfig(pp=2), "tp": ParallelConfig(tp=2)}
CPU = torch.device("cpu")


def made() -> Any:
    torch.manual_seed(0)
    return tiny.llama(tied=True)


def broken_on_rank_1(world: World, factor: float) -> Any:
    def objective(model: Any, batch: Batch) -> Step:
        step = next_token()(model, batch)
        return dataclasses.replace(step, loss=step.loss * factor) if world.rank == 1 else step

    return objective


def updates(
    world: World, config: ParallelConfig, *, objective: Any = None, recompute: bool = False, **more: Any
) -> Any:
    """Three updates of the tiny model, half of the rows on each process."""
    model = spread(made(), world, config) if world.size > 1 else spread(made())
    if recompute:
        recompute_blocks(model.model)
    gradients = model.gradients(objective or next_token())
    updater = Updater(model.optimizer(OPTIMIZER), gradients, max_grad_norm=1.0, **more)
    halves = cut(ragged_rows(), 8 // world.size)
    return [updater.update([halves[world.rank]], learning_rate=1e-2) for _ in range(3)]


def safeguards() -> dict[str, Any]:
    with joined(ParallelConfig(), CPU) as world:
        scaler, guard = Scaler(scale=512.0), Guard(GuardConfig(action="skip"))
        half = in_precision(next_token(), torch.float16, CPU)
        return {
            "overflow": updates(
                world,
                SHARDED,
                objective=in_precision(broken_on_rank_1(world, 1e4), torch.float16, CPU),
                scaler=scaler,
            ),
            "scale": scaler.scale,
            "half": updates(world, SHARDED, objective=half, scaler=Scaler(scale=512.0)),
            "nan": updates(
                world, ParallelConfig(), objective=broken_on_rank_1(world, float("nan")), guard=guard
            ),
            "skipped": guard.skipped,
            "documents": world.everyones([f"web #{world.rank}"]),
            "recomputed copies": updates(world, ParallelConfig(), recompute=True),
            "recomputed shards": updates(world, SHARDED, recompute=True),
        }


def divided(config: ParallelConfig) -> list[Update]:
    """Recomputed blocks in bfloat16, the model cut into stages or its layers in halves."""
    quick = in_precision(next_token(), torch.bfloat16, CPU)
    with joined(config, CPU) as world:
        model = spread(made(), world, config)
        recompute_blocks(model.model)
        updater = Updater(model.optimizer(OPTIMIZER), model.gradients(quick), max_grad_norm=1.0)
        rows = cut(ragged_rows(), 4)
        return [updater.update(rows, learning_rate=1e-2) for _ in range(3)]


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return run_ranks(2, safeguards)


@pytest.fixture(scope="module")
def alone() -> list[Update]:
    return updates(ALONE, ParallelConfig())


@pytest.mark.slow
def test_an_overflow_on_one_process_is_skipped_by_both(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert [update.fault for update in rank["overflow"]] == [OVERFLOW] * 3
        assert rank["scale"] == 64.0


@pytest.mark.slow
def test_a_scaled_float16_run_on_shards_is_the_float32_run_but_for_rounding(
    found: list[dict[str, Any]], alone: list[Update]
) -> None:
    for rank in found:
        assert [u.loss for u in rank["half"]] == pytest.approx([u.loss for u in alone], rel=5e-3)
        assert [u.grad_norm for u in rank["half"]] == pytest.approx([u.grad_norm for u in alone], rel=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("layout", DIVIDED)
def test_bfloat16_and_recomputing_go_with_pipelines_and_tensor_parallelism(
    alone: list[Update], layout: str
) -> None:
    for rank in run_ranks(2, divided, DIVIDED[layout]):
        assert [u.loss for u in rank] == pytest.approx([u.loss for u in alone], rel=5e-3)
        assert [u.grad_norm for u in rank] == pytest.approx([u.grad_norm for u in alone], rel=2e-2)


@pytest.mark.slow
def test_a_loss_that_is_broken_on_one_process_is_left_out_on_both(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert all("the loss is nan" in update.fault for update in rank["nan"])
        assert rank["skipped"] == 3
        assert rank["documents"] == ["web #0", "web #1"]  # both write or tell the same list


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["copies", "shards"])
def test_recomputed_blocks_learn_the_same_on_several_processes(
    found: list[dict[str, Any]], alone: list[Update], layout: str
) -> None:
    for rank in found:
        for mine, theirs in zip(rank[f"recomputed {layout}"], alone, strict=True):
            assert mine.loss == pytest.approx(theirs.loss, rel=1e-6)
            assert mine.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-5)
