from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.dedup.exact import Exact
from luban.data.step import Drop
from tests.data.dedup.corpora import documents, run

CORPUS = st.lists(st.sampled_from(["", "a", "b", "A", "a ", "ä", "ä"]), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(CORPUS, st.lists(st.integers(0, 40), max_size=3), st.integers(1, 9))
def test_every_text_is_kept_once_and_first_wherever_parts_and_batches_end(
    texts: list[str], cuts: list[int], batch: int
) -> None:
    inside = sorted({min(cut, len(texts)) for cut in cuts} - {0, len(texts)})
    outcomes = run(Exact(), documents(*texts), cuts=inside, batch=batch)
    dropped = [isinstance(outcome, Drop) for outcome in outcomes]
    assert dropped == [text in texts[:i] for i, text in enumerate(texts)]


def test_a_drop_names_the_part_and_place_of_the_one_that_stays() -> None:
    outcomes = run(Exact(), documents("a", "b", "b", "c", "b", "a"), cuts=[3])
    assert outcomes == [
        None,
        None,
        Drop("duplicate", "0/1"),
        None,
        Drop("duplicate", "0/1"),
        Drop("duplicate", "0/0"),
    ]


def test_a_corpus_may_have_empty_parts() -> None:
    outcomes = run(Exact(), documents("a", "a"), cuts=[0, 1, 1])
    assert outcomes == [None, Drop("duplicate", "1/0")]
