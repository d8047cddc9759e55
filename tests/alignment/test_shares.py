"""What each process does of an iteration: every thing once, in as many passes as the others, sums as those of one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luban.alignment.shares import passes, share
from luban.training.parallel.world import World
from tests.alignment.test_pupil import NAMES, fixed, objectives

EIGHT = fixed()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed(World):
    """A process at a place of its own, without the others."""

    at: int

    def place(self, axis: str) -> int:  # noqa: ARG002 - there is one axis
        return self.at


def worlds(size: int) -> list[World]:
    return [Placed(rank=at, size=size, dp=size, at=at) for at in range(size)]


@given(st.integers(0, 50), st.integers(1, 7))
def test_shares_follow_each_other_and_are_all_there_is(count: int, size: int) -> None:
    shares = [share(count, world) for world in worlds(size)]
    assert [one for mine in shares for one in mine] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(1, 8), st.integers(1, 9), st.integers(1, 4))
def test_processes_make_as_many_passes_and_read_every_row_once(count: int, rows: int, size: int) -> None:
    batch = EIGHT.select(range(count))
    dealt = [passes(batch, rows=rows, world=world) for world in worlds(size)]
    assert len({len(parts) for parts in dealt}) == 1
    busy = [part for parts in dealt for part in parts if part.target_count]
    assert sorted(origin for part in busy for origin in part.ids) == sorted(batch.ids)
    assert max(map(len, busy)) <= rows


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_a_process_that_has_no_more_adds_nothing_and_takes_part(name: str) -> None:
    batch = EIGHT.select(range(1))
    (idle,) = passes(batch, rows=4, world=worlds(2)[1])
    model, objective = objectives(name)
    step = objective(model, idle)
    step.loss.backward()
    assert (float(step.loss.detach()), step.targets) == (0.0, 0)
    used = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert len(used) == len(list(model.parameters()))
    assert not any(gradient.any() for gradient in used)
    assert all(torch.isfinite(torch.tensor(mean)) for mean in objective.tally.means().values())
