"""A model on the stages of a pipeline learns what it learns in one process, whatever the schedule."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from luban.data.batch import IGNORED, Batch, Origin
from luban.inference.local import open_lm
from luban.models import hf
from luban.models.base import parameter_count
from luban.models.rnn import RecurrentLM, RNNConfig
from luban.training import pretrain
from luban.training.architecture import ArchitectureConfig
from luban.training.config import LoopConfig, OptimizerConfig, ParallelConfig
from luban.training.metrics import read_log
from luban.training.optim import adamw
from luban.training.parallel.clock import order
from luban.training.parallel.whole import gathered
from luban.training.parallel.world import World, joined
from luban.training.precision import in_precision
from luban.training.recompute import recompute_blocks
from luban.training.step import Accumulated, Objective, Update, Updater, next_token
from tests import tiny
from tests.conftest import Workspace
from tests.ranks import run_ranks

STEPS, MICRO_BATCHES, ROWS, SEQ, RATE = 3, 4, 2, 12, 1e-3
GPIPE, ONE_BY_ONE = {"schedule": "gpipe"}, {"schedule": "1f1b"}
INTERLEAVED = {"schedule": "interleaved", "chunks": 2}


class Case(NamedTuple):
    """A model of 5 layers, its pipeline, and what is done with both."""

    model: str
    changes: dict[str, Any]
    pipeline: dict[str, Any]
    dtype: torch.dtype = torch.float32
    recompute: bool = False


CASES = {
    "gpipe": Case("llama", {"tied": False}, GPIPE),
    "1f1b": Case("llama", {"tied": False}, ONE_BY_ONE),
    "interleaved": Case("llama", {"tied": False}, INTERLEAVED),
    "tied": Case("llama", {"tied": True}, ONE_BY_ONE),
    "tied, interleaved": Case("llama", {"tied": True}, INTERLEAVED),
    "learned positions": Case("gpt2", {}, INTERLEAVED),
    "normed embedding, ALiBi": Case("bloom", {}, INTERLEAVED),
    "states without a last norm": Case("lstm", {}, GPIPE),
    "bfloat16": Case("llama", {"tied": True}, ONE_BY_ONE, dtype=torch.bfloat16),
    "shared state": Case("llama", {"tied": True}, {**ONE_BY_ONE, "zero": 1}),
    "recomputed": Case("llama", {"tied": False}, INTERLEAVED, recompute=True),
}
OF_FOUR = {"2 copies": ("1f1b", "tied, interleaved", "shared state"), "2 share a layer": ("tied",)}


def lstm(layers: int) -> RecurrentLM:
    return RecurrentLM(RNNConfig(model_type="lstm", vocab=384, dim=32, layers=layers, context=64))


def made(case: Case) -> tuple[Any, Objective, ParallelConfig]:
    torch.manual_seed(7)
    make: Callable[..., Any] = lstm if case.model == "lstm" else getattr(tiny, case.model)
    objective = in_precision(next_token(), case.dtype, torch.device("cpu"))
    return make(layers=5, **case.changes), objective, ParallelConfig(pp=2, **case.pipeline)


def micro_batches(step: int, copy_of: int = 0) -> list[Batch]:
    """A step's: rows of two documents, with ever other numbers of targets."""
    draw = torch.Generator().manual_seed(100 * step + copy_of)
    return [packed(draw, number) for number in range(MICRO_BATCHES)]


def packed(draw: torch.Generator, number: int) -> Batch:
    border, places = 3 + number, torch.arange(SEQ)
    targets = torch.randint(384, (ROWS, SEQ), generator=draw)
    targets[torch.rand(ROWS, SEQ, generator=draw) < 0.2 * number] = IGNORED
    return Batch(
        tokens=torch.randint(384, (ROWS, SEQ), generator=draw),
        targets=targets,
        positions=torch.where(places < border, places, places - border).expand(ROWS, SEQ),
        documents=(places >= border).long().expand(ROWS, SEQ),
        ids=[Origin("test", number)],
        packed=True,
    )


def in_one_process(model: Any, objective: Objective, copies: int) -> list[Update]:
    updater = Updater(adamw(model, OptimizerConfig()), Accumulated(model, objective), max_grad_norm=1.0)
    steps = [[b for place in range(copies) for b in micro_batches(step, place)] for step in range(STEPS)]
    return [updater.update(batches, learning_rate=RATE) for batches in steps]


def compared(case: Case, world: World) -> dict[str, Any]:
    """How far a pipeline's losses, norms and weights are from one process's, and what it holds."""
    from luban.training.parallel.pipeline import Staged

    model, objective, config = made(case)
    whole = copy.deepcopy(model)
    expected = in_one_process(whole, objective, world.dp)
    if case.recompute:
        recompute_blocks(model)
    staged = Staged(model, world, config)
    updater = Updater(staged.optimizer(OptimizerConfig()), staged.gradients(objective), max_grad_norm=1.0)
    found = [
        updater.update(micro_batches(step, world.place("dp")), learning_rate=RATE) for step in range(STEPS)
    ]
    one, seen = gathered(staged.model, world), micro_batches(STEPS)[2]
    told, state = whole.state_dict(), {} if one is None else one.state_dict()
    with torch.no_grad():
        looked, alone = staged.asked(objective)(staged.model, seen), objective(whole, seen)
    return {
        "loss": max(abs(mine.loss - theirs.loss) for mine, theirs in zip(found, expected, strict=True)),
        "norm": max(abs(mine.grad_norm - its.grad_norm) for mine, its in zip(found, expected, strict=True)),
        "targets": [(mine.targets, its.targets) for mine, its in zip(found, expected, strict=True)],
        "weights": max((distance(told[name], state[name]) for name in state), default=0.0),
        "names": (sorted(state), sorted(told)),
        "parameters": parameter_count(staged.model),
        "looked": abs(looked.loss.item() - alone.loss.item()) / alone.targets,
        "looked at": (looked.targets, alone.targets),
    }  # fmt: skip


def distance(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def scaled(world: World) -> tuple[list[float], float]:
    """By how much gradients grow when the loss is scaled by 4, and how much the loss that is told grows."""
    from luban.training.parallel.pipeline import Staged

    model, objective, config = made(CASES["tied"])
    staged = Staged(model, world, config)
    gradients = staged.gradients(objective)
    found: list[tuple[float, list[Tensor]]] = []
    for scale in (1.0, 4.0):
        staged.model.zero_grad()
        loss = gradients.sum(micro_batches(0), scale=scale).loss
        found.append((loss, [p.grad.clone() for p in staged.model.parameters() if p.grad is not None]))
    (loss, plain), (same, grown) = found
    return [distance(4 * a, b) / b.abs().max().item() for a, b in zip(plain, grown, strict=True)], same - loss


def executed(schedule: dict[str, Any], world: World) -> list[tuple[int, int, bool]]:
    """The passes that a process ran in a step, in their order."""
    from luban.training.parallel import pipeline

    model, objective, config = made(CASES["gpipe"])
    gradients = pipeline.Staged(model, world, ParallelConfig(**(vars(config) | schedule))).gradients(
        objective
    )
    ran: list[tuple[int, int, bool]] = []
    timed = pipeline._TimedStage._timed

    def noted(stage: Any, run: Any, number: int, *arguments: Any, **settings: Any) -> Any:
        ran.append((stage.stage_index, number, run.__name__ == "backward_one_chunk"))
        return timed(stage, run, number, *arguments, **settings)

    pipeline._TimedStage._timed = noted  # pyright: ignore[reportAttributeAccessIssue] - put back below
    try:
        gradients.sum(micro_batches(0))
    finally:
        pipeline._TimedStage._timed = timed
    return ran


def slowed(schedule: dict[str, Any], world: World) -> tuple[float, float]:
    """The bubble of a step whose stages sleep 40 ms forward and 80 ms back, and what was foretold.

    Of ten steps the nearest: other work on the machine delays some.
    """
    from luban.training.parallel.pipeline import Staged

    torch.manual_seed(7)
    staged = Staged(tiny.llama(layers=4, vocab=8, tied=False), world, ParallelConfig(pp=2, **schedule))
    for block in (block for block in staged.model.blocks if list(block.parameters())):
        block.register_forward_pre_hook(lambda *_: time.sleep(0.02))
        block.register_full_backward_pre_hook(lambda *_: time.sleep(0.04))
    gradients = staged.gradients(next_token())
    nearest, foretold = float("inf"), 0.0
    for step in range(10):  # the first also finds out shapes
        batches = [
            replace(b, tokens=b.tokens % 8, targets=b.targets.clamp(max=7)) for b in micro_batches(step)
        ]
        gradients.sum(batches)
        measured, foretold = gradients.figures().values()
        nearest = min(nearest, measured, key=lambda value: abs(value - foretold))
        if abs(nearest - foretold) < 0.03:
            break
    return nearest, foretold


def of_two() -> dict[str, Any]:
    with joined(ParallelConfig(pp=2), torch.device("cpu")) as world:
        return {
            "cases": {name: compared(case, world) for name, case in CASES.items()},
            "scaled": scaled(world),
            "executed": {str(way): executed(way, world) for way in (GPIPE, ONE_BY_ONE, INTERLEAVED)},
            "slowed": {str(way): slowed(way, world) for way in (GPIPE, INTERLEAVED)},
        }


def of_four() -> dict[str, Any]:
    with joined(ParallelConfig(pp=2), torch.device("cpu")) as copies:
        mesh = init_device_mesh("cpu", (2, 1, 2), mesh_dim_names=("pp", "dp", "tp"))
        sharing = World(rank=copies.rank, size=4, pp=2, dp=1, tp=2, mesh=mesh)
        worlds = {"2 copies": copies, "2 share a layer": sharing}
        return {
            f"{way}: {name}": compared(CASES[name], worlds[way])
            for way, names in OF_FOUR.items()
            for name in names
        }


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return run_ranks(2, of_two)


@pytest.fixture(scope="module")
def four() -> list[dict[str, Any]]:
    return run_ranks(4, of_four)


def assert_the_same(found: dict[str, Any]) -> None:
    assert found["loss"] <= 1e-6
    assert found["norm"] <= 1e-6
    assert found["weights"] <= 1e-6
    assert found["looked"] <= 1e-6
    for mine, theirs in [*found["targets"], found["looked at"]]:
        assert mine == theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_stages_learn_what_one_process_learns(name: str, two: list[dict[str, Any]]) -> None:
    for process in two:
        assert_the_same(process["cases"][name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{way}: {name}" for way, names in OF_FOUR.items() for name in names])
def test_stages_that_have_copies_or_share_layers_learn_the_same(
    name: str, four: list[dict[str, Any]]
) -> None:
    for process in four:
        assert_the_same(process[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_stages_together_have_every_weight_by_its_name(name: str, two: list[dict[str, Any]]) -> None:
    found, all_names = two[0]["cases"][name]["names"]
    assert found == all_names
    assert two[1]["cases"][name]["names"][0] == []


@pytest.mark.slow
def test_each_process_holds_its_share_and_a_tied_matrix_is_held_twice(two: list[dict[str, Any]]) -> None:
    for name, twice in (("1f1b", 0), ("tied", 384 * 32), ("tied, interleaved", 384 * 32)):
        model, _, _ = made(CASES[name])
        held = [process["cases"][name]["parameters"] for process in two]
        assert sum(held) == parameter_count(model) + twice
        assert max(held) < 0.7 * parameter_count(model)


@pytest.mark.slow
def test_the_scale_of_the_loss_reaches_every_gradient_and_not_the_loss(two: list[dict[str, Any]]) -> None:
    for process in two:
        gradients, loss = process["scaled"]
        assert gradients
        assert max(gradients) <= 1e-6
        assert loss == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [GPIPE, ONE_BY_ONE, INTERLEAVED], ids=lambda way: way["schedule"])
def test_a_process_runs_its_passes_in_the_order_that_is_stated(
    schedule: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    chunks = schedule.get("chunks", 1)
    for place, process in enumerate(two):
        stated = order(schedule["schedule"], place, processes=2, micro_batches=MICRO_BATCHES, chunks=chunks)
        assert process["executed"][str(schedule)] == [tuple(job) for job in stated]


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "share"), [(GPIPE, 1 / 4), (INTERLEAVED, 1 / 8)])
def test_the_measured_bubble_is_the_one_foretold(
    schedule: dict[str, Any], share: float, two: list[dict[str, Any]]
) -> None:
    for process in two:
        measured, foretold = process["slowed"][str(schedule)]
        assert foretold == share
        assert abs(measured - share) < 0.06


def trained(config: pretrain.Config) -> dict[str, Any]:
    return pretrain.run(config, open_lm)


@pytest.mark.slow
def test_a_run_of_two_stages_logs_its_bubble_and_ends_in_the_same_model(
    workspace: Workspace, tmp_path: Path
) -> None:
    loop: dict[str, Any] = {
        "max_steps": 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
    }
    alone = pretrain.Config(
        data=(workspace.shards,),
        tokenizer=workspace.tokenizer,
        validation=workspace.held_out,
        out=tmp_path / "alone",
        architecture=ArchitectureConfig(layers=3, dim=32, heads=4, kv_heads=2),
        loop=LoopConfig(**loop, max_length=32, compile=False, logging_steps=1),
        threads=1,
    )
    two = replace(alone, out=tmp_path / "two", parallel=ParallelConfig(pp=2))
    pretrain.run(alone, open_lm)
    run_ranks(2, trained, two)
    expected, found = read_log(alone.out), read_log(two.out)
    for name in ("train/loss", "train/grad_norm", "val/loss"):
        assert [line.get(name) for line in found] == [pytest.approx(line.get(name)) for line in expected]
    assert [line["train/bubble_foretold"] for line in found if "train/loss" in line] == [0.25] * 3
    assert all(line["train/bubble"] > 0 for line in found if "train/loss" in line)
    model, same = (hf.load(run.out / "final").state_dict() for run in (alone, two))
    assert max(distance(model[name], same[name]) for name in model) <= 1e-6
