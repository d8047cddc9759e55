from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.dedup.buckets import Buckets
from luban.data.dedup.components import Forest, Sets, match_marked

PAIRS = st.lists(
    st.tuples(st.integers(0, 29), st.integers(0, 29)).filter(lambda pair: pair[0] < pair[1]), max_size=40
)


def bucket(*rows: list[int]) -> Buckets:
    ends = np.cumsum([0, *map(len, rows)])
    return Buckets(np.array([row for own in rows for row in own], np.int64), ends.astype(np.int64))


def sets(*members: list[int]) -> Sets:
    maps = [np.array(own, np.uint32) for own in members]
    return Sets(
        np.array([own.ctypes.data for own in maps], np.uint64), np.array(list(map(len, maps)), np.int64), maps
    )


@settings(deadline=None)
@given(PAIRS, st.lists(st.integers(0, 3), min_size=30, max_size=30))
def test_each_component_keeps_the_first_of_its_best(pairs: list[tuple[int, int]], ranks: list[int]) -> None:
    forest = Forest(30)
    forest.unite_all(bucket(*map(list, pairs)))
    component = list(range(30))
    for left, right in pairs:  # the slow way: rename all of one component
        component = [component[left] if own == component[right] else own for own in component]
    kept = forest.keepers(np.array(ranks, np.float64)).tolist()
    for row in range(30):
        own = [i for i in range(30) if component[i] == component[row]]
        assert kept[row] == min(own, key=lambda i: (-ranks[i], i))


ITEMS = st.lists(st.integers(0, 25) | st.sampled_from([2**32 - 1, 2**31]), max_size=20)


@settings(deadline=None)
@given(ITEMS, ITEMS, st.integers(1, 20))
def test_a_pair_joins_from_its_true_jaccard_similarity_on(
    left: list[int], right: list[int], twentieths: int
) -> None:
    forest = Forest(2)
    forest.unite_similar(bucket([0, 1]), sets(left, right), twentieths / 20)
    union = len(set(left) | set(right))
    true = len(set(left) & set(right)) / union if union else 0
    assert (forest.parent[0] == forest.parent[1]) == (true >= twentieths / 20)


@pytest.mark.parametrize(("threshold", "alike"), [(0.49, True), (0.51, False)])
def test_sets_larger_than_the_table_are_compared_by_a_part_of_them(threshold: float, alike: bool) -> None:
    drawn = np.random.default_rng(0).integers(0, 2**32, 3_000_000, np.uint32)
    members = [drawn[:2_250_000], drawn[750_000:]]  # 1.5 of 3 million are shared
    forest = Forest(2)
    addresses = np.array([own.ctypes.data for own in members], np.uint64)
    counts = np.array([len(own) for own in members], np.int64)
    forest.unite_similar(bucket([0, 1]), Sets(addresses, counts, members), threshold)
    assert bool(forest.parent[0] == forest.parent[1]) == alike


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read off /proc")
def test_sets_that_are_compared_fill_a_bounded_part_of_memory(tmp_path: Path) -> None:
    counts, each = np.full(512, 1 << 15, np.int64), 1 << 17  # 64 MiB of sets
    np.save(tmp_path / "shingles.npy", np.zeros(counts.sum(), np.uint32))
    np.save(tmp_path / "counts-0.npy", counts)
    part = {"shingles": tmp_path / "shingles.npy", "counts": tmp_path / "counts-0.npy"}
    mapped = Sets.of([part], tmp_path)
    forest, before, most = Forest(512), _file_bytes(), 0
    for piece in mapped.pieces(bucket(*([i, i + 1] for i in range(0, 512, 2))), 32 * each):
        forest.unite_similar(piece, mapped, 0.5)
        most = max(most, _file_bytes() - before)
    assert forest.parent[1] == 0
    assert 16 * each < most < 64 * each


def _file_bytes() -> int:
    """How much memory the files that this process has mapped fill."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssFile:"))


def test_members_that_are_not_like_the_first_are_still_compared_with_each_other() -> None:
    families = [[10 * (i % 4), 10 * (i % 4) + 1] for i in range(12)]
    forest = Forest(12)
    forest.unite_similar(bucket(list(range(12))), sets(*families), 0.9)
    assert forest.parent.tolist() == [0, 1, 2, 3] * 3


def test_a_large_bucket_costs_a_bounded_number_of_comparisons_a_document() -> None:
    different = sets(*[[i] for i in range(500)])
    assert Forest(500).unite_similar(bucket(list(range(500))), different, 0.5) <= 500 * 17


def test_documents_of_one_component_are_compared_once() -> None:
    alike = sets(*[[1, 2, 3]] * 300)
    assert Forest(300).unite_similar(bucket(list(range(300))), alike, 0.5) == 299


def test_a_marked_row_is_matched_by_others_and_never_matches() -> None:
    match = np.full(5, -1, np.int64)
    marked = np.array([0, 1, 0, 1, 0], np.uint8)
    members = sets([1, 2], [1, 2, 3], [8, 9], [1, 2], [5])
    match_marked(match, marked, bucket([0, 1, 2, 3, 4]), members, 0.6)
    assert match.tolist() == [1, -1, -1, -1, -1]
