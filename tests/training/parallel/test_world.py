"""The mesh: every process finds its place, and counts add up along one axis only."""

from __future__ import annotations

import pytest
import torch

from luban.errors import ConfigError
from luban.training.config import ParallelConfig
from luban.training.parallel.world import ALONE, joined
from tests.ranks import run_ranks


def places() -> tuple[tuple[int, ...], list[float], list[float]]:
    with joined(ParallelConfig(tp=2), torch.device("cpu")) as world:
        told = (world.dp, world.tp, world.place("dp"), world.place("tp"))
        return told, world.total(float(world.rank)), world.total(float(world.rank), axis="tp")


@pytest.mark.slow
def test_neighbours_in_rank_share_a_layer_and_sums_go_along_one_axis() -> None:
    found = run_ranks(4, places)
    assert [told for told, _, _ in found] == [(2, 2, 0, 0), (2, 2, 0, 1), (2, 2, 1, 0), (2, 2, 1, 1)]
    assert [total for _, total, _ in found] == [[2.0], [4.0], [2.0], [4.0]]  # ranks 0+2 and 1+3 are copies
    assert [total for _, _, total in found] == [[1.0], [1.0], [5.0], [5.0]]  # ranks 0+1 and 2+3 share a layer


def test_one_process_is_a_world_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(ParallelConfig(), torch.device("cpu")) as world:
        assert world is ALONE
        assert world.main
        assert world.total(3.0, 4.0) == [3.0, 4.0]


def test_a_layout_that_is_not_the_number_of_processes_says_how_many_to_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with (
        pytest.raises(ConfigError, match="dp 1 x tp 3 x pp 1 = 3 processes, and there are 4"),
        joined(ParallelConfig(tp=3), torch.device("cpu")),
    ):
        pass
