from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.dedup import buckets as module
from luban.data.dedup.buckets import (
    Buckets,
    buckets,
    is_saved,
    joined,
    part_starts,
    release,
    save,
    working_folder,
)

KEYS = st.lists(st.sampled_from([0, 1, 2, 2**32, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1), max_size=60)


def groups(keys: list[int], *, memory: int) -> list[list[int]]:
    found = []
    for each in buckets(np.array(keys, np.uint64), memory=memory):
        found += [each.rows[a:b].tolist() for a, b in zip(each.starts[:-1], each.starts[1:], strict=True)]
    return sorted(found)


@settings(deadline=None)
@given(KEYS, st.sampled_from([48, 480, 1 << 20]))
def test_buckets_are_the_rows_of_one_key_at_any_memory(keys: list[int], memory: int) -> None:
    rows: dict[int, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEAST_BYTES", 48)
        assert groups(keys, memory=memory) == sorted(own for key, own in rows.items() if key and len(own) > 1)


@given(st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=5), max_size=8), st.integers(0, 40))
def test_buckets_in_runs_are_the_same_buckets_and_cost_no_more(costs: list[list[int]], most: int) -> None:
    ends = np.cumsum([0, *map(len, costs)])
    whole = Buckets(np.arange(ends[-1]), ends)
    runs = list(whole.split(np.array([cost for own in costs for cost in own], np.int64), most))
    found = [run.rows[a:b].tolist() for run in runs for a, b in itertools.pairwise(run.starts)]
    assert found == [list(range(a, b)) for a, b in itertools.pairwise(ends)]
    taken = iter(costs)
    for run in runs:
        own = [sum(next(taken)) for _ in run.starts[1:]]
        assert sum(own) <= most or len(own) == 1


@pytest.mark.parametrize("rows", [0, 5])
def test_an_array_counts_as_saved_only_if_all_of_it_is_there(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "0.npy"
    assert not is_saved(path)
    save(path, np.arange(2 * rows).reshape(rows, 2))
    assert is_saved(path)
    for length in (0, 50, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:length])
        assert not is_saved(path)


def test_a_mapped_array_that_is_released_keeps_what_was_written(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", np.arange(8).reshape(4, 2))
    whole = joined([{"keys": tmp_path / "0.npy"}], "keys", tmp_path)
    whole[1, 2] = 99
    release(whole[1])
    assert whole.tolist() == [[0, 2, 4, 6], [1, 3, 99, 7]]


def test_parts_are_joined_in_order_and_bands_lie_side_by_side(tmp_path: Path) -> None:
    arrays = [np.arange(6).reshape(3, 2), np.empty((0, 2), int), np.arange(6, 10).reshape(2, 2)]
    parts = []
    for number, array in enumerate(arrays):
        np.save(tmp_path / f"{number}.npy", array)
        parts.append({"keys": tmp_path / f"{number}.npy"})
    assert joined(parts, "keys", tmp_path).tolist() == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
    assert part_starts(parts, "keys").tolist() == [0, 3, 3, 5]


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".resolve").mkdir()
    (tmp_path / ".resolve" / "old.npy").write_bytes(b"half")
    with working_folder([tmp_path / "0.npy"]) as folder:
        assert not list(folder.iterdir())
    assert not list(tmp_path.iterdir())
