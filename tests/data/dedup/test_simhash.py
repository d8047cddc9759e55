from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.dedup.planted import group_numbers
from luban.data.dedup.simhash import SimHash, masks
from luban.data.step import Drop
from tests.data.dedup.corpora import decide, documents, run

FLIPS = st.lists(
    st.tuples(st.integers(0, 2), st.sets(st.integers(0, 63), max_size=5)), min_size=1, max_size=12
)


@settings(max_examples=40, deadline=None)
@given(FLIPS, st.integers(0, 5), st.integers(1, 2**64 - 1))
def test_all_pairs_within_the_distance_are_joined_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, set[int]]], distance: int, base: int
) -> None:
    seeds = [base, base ^ 0xFFFF, (base * 3 + 1) % 2**64 or 1]
    prints = [seeds[seed] ^ sum(1 << bit for bit in bits) or 1 for seed, bits in flips]
    folder = tmp_path_factory.mktemp("simhash")
    np.save(folder / "fingerprints.npy", np.array(prints, np.uint64))
    np.save(folder / "lengths.npy", np.zeros(len(prints)))
    part: dict[str, Path] = {name: folder / f"{name}.npy" for name in ("fingerprints", "lengths")}
    SimHash(distance=distance).resolve([part], [folder / "out.npy"], memory=1 << 22)
    found = group_numbers([np.load(folder / "out.npy")]).tolist()
    component = list(range(len(prints)))
    for left, right in itertools.combinations(range(len(prints)), 2):
        if (prints[left] ^ prints[right]).bit_count() <= distance:
            old, new = sorted([component[left], component[right]], reverse=True)
            component = [new if own == old else own for own in component]
    assert found == component


@pytest.mark.parametrize(("count", "tables"), [(1000, 5), (1_000_000, 15), (100_000_000, 35), (10**10, 70)])
def test_more_documents_take_more_and_finer_tables(count: int, tables: int) -> None:
    """Of 4 + e blocks e are equal: 5, 15, 35 and 70 ways to choose them for e of 1 to 4."""
    assert len(list(masks(count, 4))) == tables


WORDS = [f"word{i}" for i in range(400)]


def test_a_document_with_a_few_words_changed_goes_and_the_longest_stays() -> None:
    changed = [*WORDS[:200], "other", *WORDS[201:]]
    texts = [" ".join(WORDS), " ".join([*changed, "more"]), " ".join(reversed(WORDS)), ""]
    assert run(SimHash(), documents(*texts)) == [Drop("near_duplicate_simhash", "0/1"), None, None, None]


def test_long_documents_are_left_alone() -> None:
    corpus = documents(" ".join(WORDS * 3), " ".join(WORDS * 3), " ".join(WORDS), " ".join(WORDS))
    assert [outcome is None for outcome in run(SimHash(), corpus)] == [True, True, True, False]


def test_neither_parts_nor_memory_change_what_is_found() -> None:
    chance = np.random.default_rng(0)
    texts = [" ".join(chance.choice(WORDS[:12], 30)) for _ in range(200)]
    whole = group_numbers(decide(SimHash(ngram=1, distance=6), documents(*texts)))
    pieces = group_numbers(
        decide(SimHash(ngram=1, distance=6), documents(*texts), cuts=[3, 90], batch=4, memory=1)
    )
    assert whole.tolist() == pieces.tolist()
    assert len(set(whole.tolist())) < 200
