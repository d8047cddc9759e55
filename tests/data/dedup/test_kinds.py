from __future__ import annotations

import pickle

import pytest

from luban.data.dedup.crossing import Crossing
from luban.data.dedup.exact import Exact
from luban.data.dedup.minhash import MinHash
from luban.data.dedup.paragraphs import Paragraphs
from luban.data.dedup.simhash import SimHash
from luban.data.dedup.urls import UrlDuplicates
from luban.data.step import Batch, CorpusStep, Drop
from tests.data.dedup.corpora import documents, run

STEPS = [
    Exact(),
    UrlDuplicates(),
    Paragraphs(),
    MinHash(),
    MinHash(verify=False, score="quality"),
    SimHash(),
    Crossing(),
]


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_an_empty_batch_collects_the_same_kinds_of_arrays(step: CorpusStep) -> None:
    none, some = step.collect(Batch(())), step.collect(Batch(documents("a text of some words", "b")))
    kinds = [
        {name: (array.dtype, array.shape[1:]) for name, array in found.items()} for found in (none, some)
    ]
    assert kinds[0] == kinds[1]
    assert all(len(array) == 0 for array in none.values())


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_a_corpus_of_nothing_and_one_of_empty_texts_go_through(step: CorpusStep) -> None:
    assert run(step, []) == []
    outcomes = run(step, documents("", "", "x"), cuts=[0, 1])
    assert outcomes == [None, Drop("duplicate", "1/0") if isinstance(step, Exact) else None, None]


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_a_step_travels_to_other_processes(step: CorpusStep) -> None:
    assert pickle.loads(pickle.dumps(step)) == step
