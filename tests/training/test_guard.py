"""A bad batch: found before anything moves, then the run stops at it or goes on without it."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.data.batch import Batch, Origin
from luban.errors import TrainingError
from luban.training.config import GuardConfig, OptimizerConfig
from luban.training.guard import FEWEST, WINDOW, Guard, SkippedFile
from luban.training.optim import adamw
from luban.training.step import Accumulated, Step, Updater, next_token
from tests import tiny
from tests.training.test_step import ragged_rows

SKIP = GuardConfig(action="skip", spike=6.0, most_skipped=2)


def fed(guard: Guard, losses: list[float]) -> Guard:
    for loss in losses:
        guard.take(loss)
    return guard


def test_a_jump_is_a_loss_too_many_deviations_above_the_mean_of_the_last() -> None:
    guard = fed(Guard(GuardConfig(spike=3.0)), [2.0, 4.0] * 32)  # mean 3, deviation 1
    assert guard.fault(5.9, 1.0) == ""
    assert guard.fault(6.1, 1.0) == "the loss jumped to 6.1000; the last 64 were 3.0000 +- 1.0000"
    assert guard.fault(-50.0, 1.0) == ""


def test_only_the_last_losses_count_and_a_few_are_too_few() -> None:
    guard = fed(Guard(GuardConfig(spike=3.0)), [1.0] * (FEWEST - 1))
    assert guard.fault(1e6, 1.0) == ""
    fed(guard, [100.0] * WINDOW)
    assert guard.fault(101.0, 1.0) == ""


def test_without_a_limit_no_finite_loss_is_a_jump() -> None:
    assert fed(Guard(GuardConfig()), [1.0] * WINDOW).fault(1e9, 1.0) == ""


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (1.0, float("inf")), (float("inf"), 1.0)])
def test_what_is_not_finite_is_a_fault_from_the_first_step_on(loss: float, norm: float) -> None:
    assert Guard(GuardConfig()).fault(loss, norm) == f"the loss is {loss}, its gradient norm {norm}"


def test_the_run_stops_after_too_many_skips_in_a_row() -> None:
    guard = Guard(SKIP)
    guard.refuse("bad", where="here")
    guard.refuse("bad", where="here")
    guard.take(1.0)
    guard.refuse("bad", where="here")
    guard.refuse("bad", where="here")
    with pytest.raises(TrainingError, match="here: bad: skip number 3 in a row"):
        guard.refuse("bad", where="here")
    assert guard.skipped == 5


def test_a_guard_goes_on_from_its_state() -> None:
    guard = fed(Guard(SKIP), [1.0, 2.0, 4.0])
    guard.refuse("bad", where="here")
    twin = Guard(SKIP)
    twin.restore(json.loads(json.dumps(guard.state())))
    assert vars(twin) == vars(guard)


def updater_with(guard: Guard, model: Any, objective: Any) -> Updater:
    optimizer = adamw(model, OptimizerConfig())
    return Updater(optimizer, Accumulated(model, objective), max_grad_norm=1.0, guard=guard)


def broken_at(document: int) -> Any:
    """The loss of next tokens, but not a number for a batch that holds this document."""

    def objective(model: Any, batch: Batch) -> Step:
        step = next_token()(model, batch)
        bad = Origin("test", document) in batch.ids
        return dataclasses.replace(step, loss=step.loss * float("nan")) if bad else step

    return objective


def row(number: int) -> Batch:
    whole = ragged_rows()
    parts = {
        name: getattr(whole, name)[number : number + 1]
        for name in ("tokens", "targets", "positions", "documents")
    }
    return dataclasses.replace(whole, **parts, ids=[Origin("test", number)])


def test_skipping_leaves_weights_and_optimizer_as_if_the_batch_had_never_come() -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    twin = copy.deepcopy(model)
    with_bad = updater_with(Guard(SKIP), model, broken_at(2))
    without = updater_with(Guard(SKIP), twin, next_token())
    for number in (0, 1, 2, 3):
        update = with_bad.update([row(number)], learning_rate=1e-2)
        assert bool(update.fault) == (number == 2)
        if number != 2:
            without.update([row(number)], learning_rate=1e-2)
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert with_bad.guard.skipped == 1


def test_a_jump_stops_before_anything_moves_and_names_the_documents() -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    guard = fed(Guard(GuardConfig(spike=5.0)), [1.0] * WINDOW)  # the untrained model's loss is near 6
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainingError, match=r"documents test #4: the loss jumped to 5\.(.|\n)*action=skip"):
        updater_with(guard, model, next_token()).update([row(4)], learning_rate=1.0)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_skipped_batches_are_written_down_and_those_after_the_checkpoint_forgotten(tmp_path: Path) -> None:
    first = SkippedFile(tmp_path, resumed_at=0)
    first.write(3, "bad", float("nan"), ["web #7"])
    first.write(9, "bad", 2.5, [])
    first.path.write_text(first.path.read_text("utf-8") + '{"step": 10, "lo', encoding="utf-8")  # killed here
    SkippedFile(tmp_path, resumed_at=5).write(6, "worse", 3.5, ["web #8", "web #9"])
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text("utf-8").splitlines()]
    assert lines == [
        {"step": 3, "loss": "nan", "fault": "bad", "documents": ["web #7"]},
        {"step": 6, "loss": 3.5, "fault": "worse", "documents": ["web #8", "web #9"]},
    ]
