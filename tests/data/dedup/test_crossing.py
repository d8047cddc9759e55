from __future__ import annotations

from luban.data.dedup.crossing import Crossing
from luban.data.dedup.minhash import MinHash
from luban.data.step import Drop
from tests.data.dedup.corpora import documents, run

WORDS = [f"word{i}" for i in range(300)]
TEXT = " ".join(WORDS)
NEAR = " ".join([*WORDS[:100], "another", *WORDS[101:]])
OTHER = " ".join(reversed(WORDS))


def test_training_documents_that_are_held_out_exactly_or_nearly_go() -> None:
    sides = ["train", "holdout", None, "train", "train"]
    outcomes = run(Crossing(), documents(TEXT, TEXT, NEAR, OTHER, "", split=sides), cuts=[1, 3])
    assert outcomes == [Drop("in_holdout", "1/0"), None, Drop("near_holdout", "1/0"), None, None]


def test_what_is_held_out_stays_even_twice() -> None:
    assert run(Crossing(), documents(TEXT, TEXT, NEAR, split=["test", "validation", "dev"])) == [None] * 3


def test_training_duplicates_are_not_its_business() -> None:
    assert (
        run(Crossing(), documents(TEXT, TEXT, NEAR, OTHER, split=["train"] * 3 + ["holdout"])) == [None] * 4
    )


def test_likeness_does_not_chain() -> None:
    steps = [" ".join([*["x"] * n, *WORDS[n:]]) for n in (0, 30, 60, 90)]
    crossing = Crossing(near=MinHash(ngram=1, threshold=0.75, bands=60, rows=2))
    outcomes = run(crossing, documents(*steps, split=["holdout", None, None, None]))
    # Words shared with the held-out one: 270 of 301, 240 of 301, 210 of 301 = 0.90, 0.80, 0.70.
    assert [isinstance(outcome, Drop) for outcome in outcomes] == [False, True, True, False]


def test_without_verification_a_shared_band_decides() -> None:
    crossing = Crossing(near=MinHash(verify=False))
    outcomes = run(crossing, documents(TEXT, NEAR, OTHER, split=["holdout", None, None]))
    assert outcomes == [None, Drop("near_holdout", "0/0"), None]


def test_sides_may_have_other_names() -> None:
    crossing = Crossing(key="fold", holdout=("b",))
    outcomes = run(crossing, documents("a b c", "a b c", split=["holdout", "train"], fold=["a", "b"]))
    assert outcomes == [Drop("in_holdout", "0/1"), None]
