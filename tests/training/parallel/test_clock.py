"""The clock of a pipeline: waiting and memory of each schedule, by hand and against PyTorch's own orders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from luban.errors import ConfigError
from luban.training.parallel.clock import Pass, Schedule, bubble, order, play

SCHEDULES: list[Schedule] = ["naive", "gpipe", "1f1b", "interleaved"]


def test_1f1b_of_two_stages_and_three_micro_batches_is_as_drawn_by_hand() -> None:
    timeline = play("1f1b", processes=2, micro_batches=3, forward=1, backward=2)
    assert timeline.picture().splitlines() == [
        "  0  ab..AAcBB.CC",
        "  1  .aAAbBBcCC..",
    ]


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@given(stages=st.integers(1, 8), micro_batches=st.integers(1, 24), backward=st.sampled_from([1.0, 2.0, 3.0]))
def test_filling_and_draining_waits_for_all_stages_but_one(
    schedule: Schedule, stages: int, micro_batches: int, backward: float
) -> None:
    timeline = play(schedule, processes=stages, micro_batches=micro_batches, backward=backward)
    assert timeline.bubble == pytest.approx((stages - 1) / micro_batches)


@given(stages=st.integers(2, 6), groups=st.integers(1, 4), chunks=st.integers(2, 4))
def test_interleaved_chunks_divide_the_waiting_by_their_number(stages: int, groups: int, chunks: int) -> None:
    micro_batches = groups * stages
    timeline = play("interleaved", processes=stages, micro_batches=micro_batches, chunks=chunks)
    assert timeline.bubble == pytest.approx((stages - 1) / (chunks * micro_batches))


def test_the_naive_pipeline_has_one_stage_at_work_however_many_micro_batches() -> None:
    assert play("naive", processes=4, micro_batches=1).bubble == pytest.approx(3)
    assert play("naive", processes=4, micro_batches=8).bubble == pytest.approx(3)


@given(schedule=st.sampled_from(SCHEDULES), stages=st.integers(1, 5), micro_batches=st.integers(1, 12))
def test_the_formula_says_what_the_clock_says(schedule: Schedule, stages: int, micro_batches: int) -> None:
    try:
        foretold = bubble(schedule, stages, micro_batches, 2)
    except ConfigError:
        assert schedule == "interleaved"
        return
    played = play(schedule, processes=stages, micro_batches=micro_batches, chunks=2)
    assert foretold == pytest.approx(played.bubble)


def test_gpipe_holds_every_micro_batch_and_1f1b_one_per_stage_still_to_come() -> None:
    gpipe, steady = (play(schedule, processes=4, micro_batches=8) for schedule in ("gpipe", "1f1b"))
    assert [gpipe.live(process) for process in range(4)] == [8, 8, 8, 8]
    assert [steady.live(process) for process in range(4)] == [4, 3, 2, 1]


def test_interleaving_pays_for_less_waiting_with_more_memory() -> None:
    timeline = play("interleaved", processes=4, micro_batches=8, chunks=2)
    # (chunks - 1) * 4 + 2 * 3 forward passes ahead and one more, each of half a share: (4 + 6 + 1) / 2
    assert timeline.live(0) == 5.5
    assert timeline.live(0) > play("1f1b", processes=4, micro_batches=8).live(0)


def test_no_stage_takes_up_a_micro_batch_before_it_is_there() -> None:
    slots = play("interleaved", processes=3, micro_batches=6, chunks=2).slots
    ends = {slot.job: slot.end for slot in slots}
    assert len(ends) == len(slots) == 2 * 6 * 6
    for slot in slots:
        stage, number, backward = slot.job
        before = Pass(stage + 1, number, True) if backward else Pass(stage - 1, number, False)
        assert ends.get(before, 0.0) <= slot.start
        assert not backward or ends[Pass(stage, number, False)] <= slot.start


def test_micro_batches_that_do_not_make_groups_name_the_nearest_that_do() -> None:
    with pytest.raises(
        ConfigError, match="7 micro-batches do not divide into 2 equal groups for 3 processes"
    ) as told:
        order("interleaved", 0, processes=3, micro_batches=7, chunks=2)
    assert "6 or 8" in str(told.value)


def test_the_page_shows_what_the_clock_draws() -> None:
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text("utf-8")
    for schedule in ("gpipe", "1f1b", "interleaved"):
        drawn = play(schedule, processes=4, micro_batches=8, chunks=2)
        assert f"\n{schedule}\n{drawn.picture()}\n" in page
        assert f"| {drawn.bubble:g} |" in page


@pytest.fixture(scope="module")
def four_processes() -> Iterator[None]:
    """A process group that is told of four and sends nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("four_processes")
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved"])
@pytest.mark.parametrize("micro_batches", [4, 8, 10])
def test_every_process_runs_what_pytorch_would_have_it_run(schedule: Schedule, micro_batches: int) -> None:
    from luban.training.parallel.pipeline import TRAINING

    chunks = 2 if schedule == "interleaved" else 1
    stages = [_stage(number, 4 * chunks) for number in range(0, 4 * chunks, 4)]
    theirs = TRAINING[schedule](stages if chunks > 1 else stages[0], n_microbatches=micro_batches)
    for process in range(4):
        ours = order(schedule, process, processes=4, micro_batches=micro_batches, chunks=chunks)
        # What PyTorch 2.13 prints for the last stage of 1F1B (not what it runs) counts forward passes from 1.
        late = schedule == "1f1b" and process == 3
        printed = _passes(theirs.pipeline_order[process])
        assert [tuple(job) for job in ours] == [
            (stage, number - (late and not backward), backward) for stage, number, backward in printed
        ]


def _stage(number: int, count: int) -> Any:
    from torch.distributed.pipelining import PipelineStage

    return PipelineStage(nn.Identity(), number, count, torch.device("cpu"))


def _passes(actions: list[Any]) -> list[tuple[int, int, bool]]:
    kinds = {"F": False, "B": True}
    told = [action for action in actions if action is not None and action.computation_type.value in kinds]
    return [(a.stage_index, a.microbatch_index, kinds[a.computation_type.value]) for a in told]
