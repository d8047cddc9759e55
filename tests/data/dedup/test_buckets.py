from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.dedup import buckets as module
from luban.data.dedup.buckets import buckets, joined, part_starts, working_folder

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
