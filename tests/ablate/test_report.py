"""What is said of a variant, from models of several seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from luban.ablate.report import compare
from luban.ablate.variants import Corpus, Variant

CORPORA = {name: Corpus(Path(name), {"tokens": 100}) for name in ("raw", "clean")}
RAW, CLEAN = (Variant(name, {name: 1.0}) for name in ("raw", "clean"))


def rows(*values: float) -> list[dict[str, object]]:
    return [{"per_byte": value, "sources": {"web": value + 1}} for value in values]


def test_seeds_are_paired_and_a_difference_is_clear_if_they_lie_apart() -> None:
    scored = {"raw": rows(3.0, 3.5), "clean": rows(2.5, 2.75)}
    row = compare(CLEAN, scored, RAW, CORPORA, 250)
    assert row["against_first"] == -0.625  # (-0.5 - 0.75) / 2
    assert (row["per_byte"], row["low"], row["high"]) == (2.625, 2.5, 2.75)
    assert row["deviation"] == pytest.approx(0.125 * 2**0.5)
    assert row["clear"] is True
    assert row["epochs"] == {"clean": 2.5}
    assert row["sources"] == {"web": 3.625}


def test_seeds_that_overlap_are_noise() -> None:
    assert (
        compare(CLEAN, {"raw": rows(3.0, 3.5), "clean": rows(2.5, 3.1)}, RAW, CORPORA, 100)["clear"] is False
    )


def test_one_seed_tells_nothing_of_the_noise() -> None:
    row = compare(CLEAN, {"raw": rows(3.0), "clean": rows(2.0)}, RAW, CORPORA, 100)
    assert (row["clear"], row["deviation"], row["against_first"]) == (None, None, -1.0)
