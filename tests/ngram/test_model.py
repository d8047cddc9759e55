"""Scores: as back-off is defined, whatever the batch, from a mapped folder."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.step import Packed
from luban.errors import DataError
from luban.ngram.model import NgramModel, open_model
from tests.ngram.models import train
from tests.ngram.plain import PlainModel

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "鲁", "z1", "zz"]), min_size=1, max_size=9)
TEXTS = ["a b c a b d", "b c 鲁 a", "a b c 鲁 e e e", "d d", "c a b"] * 3


def scored(model: NgramModel, texts: list[str]) -> list[float]:
    return model.score(Packed.of(texts)).logp.tolist()


@pytest.fixture(scope="module")
def model() -> NgramModel:
    return train(TEXTS, order=3).model


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=40), st.integers(1, 5), st.sampled_from([(0,), (0, 1)]))
def test_sentences_score_as_back_off_is_defined(
    lines: list[list[str]], order: int, prune: tuple[int, ...]
) -> None:
    trained = train(TEXTS, order=order, prune=prune)
    limits = [*prune, *[prune[-1]] * order][:order]
    discounts = [each.values for each in trained.discounts]
    plain = PlainModel([text.split() for text in TEXTS], order, limits, discounts)
    expected = [plain.sentence(line) for line in lines]
    assert scored(trained.model, [" ".join(line) for line in lines]) == pytest.approx(expected, rel=1e-5)
    one_text = scored(trained.model, ["\n\n".join(" ".join(line) for line in lines)])
    assert one_text == pytest.approx([math.fsum(expected)], rel=1e-5)


def test_words_sentence_ends_and_unknown_words_are_counted(model: NgramModel) -> None:
    scores = model.score(Packed.of(["a b\n\n  zz a \n", "", " \n", "zz"]))
    assert scores.words.tolist() == [6, 0, 0, 2]
    assert scores.unknown.tolist() == [1, 0, 0, 1]
    assert scores.logp[1] == 0
    assert np.isnan(scores.perplexity).tolist() == [False, True, True, False]
    assert scores.perplexity[0] == pytest.approx(10 ** (-scores.logp[0] / 6))


def test_the_signs_of_sentence_bounds_in_a_text_are_unknown_words(model: NgramModel) -> None:
    assert scored(model, ["a <s> b </s> c"]) == scored(model, ["a zz b zz c"])


def test_a_model_opened_from_its_folder_scores_the_same(model: NgramModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    opened = open_model(tmp_path)
    assert isinstance(opened.table, np.memmap)
    assert open_model(tmp_path) is opened
    assert scored(opened, TEXTS) == scored(model, TEXTS)
    assert scored(pickle.loads(pickle.dumps(opened)), TEXTS) == scored(model, TEXTS)


def test_a_model_made_by_another_word_rule_is_refused(model: NgramModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    settings_ = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**settings_, "probe": "0"}))
    with pytest.raises(DataError, match="other words"):
        open_model(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "other", "gone"])
def test_a_damaged_model_is_refused(model: NgramModel, tmp_path: Path, damage: str) -> None:
    model.save(tmp_path)
    table = tmp_path / "table.npy"
    if damage == "cut":
        table.write_bytes(table.read_bytes()[:-40])
    elif damage == "other":
        np.save(table, np.zeros(8))
    else:
        table.unlink()
    with pytest.raises(DataError, match=r"whole n-gram model|no n-gram table|not an n-gram table"):
        open_model(tmp_path)
