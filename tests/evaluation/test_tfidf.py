"""The baseline: it learns, in any script, and is left out with a word where scikit-learn is missing."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from luban.evaluation.tfidf import tfidf_probabilities

ENGLISH = ["a good film", "good and kind", "a bad film", "bad and dull"] * 5
CHINESE = ["这部电影很好看", "真好我喜欢", "这部电影很难看", "真差我讨厌"] * 5
TRUTH = np.eye(2, dtype=np.int64)[[1, 1, 0, 0] * 5]


@pytest.mark.parametrize(
    ("texts", "asked"), [(ENGLISH, ["so good", "so bad"]), (CHINESE, ["好看", "难看讨厌"])]
)
def test_it_learns_what_words_tell(texts: list[str], asked: list[str]) -> None:
    made = tfidf_probabilities(texts, TRUTH, asked, multi_label=False)
    assert made is not None
    assert made.argmax(1).tolist() == [1, 0]
    np.testing.assert_allclose(made.sum(1), 1)


def test_a_class_without_a_training_row_has_no_chance() -> None:
    truth = np.pad(TRUTH, ((0, 0), (1, 0)))
    made = tfidf_probabilities(ENGLISH, truth, ["so good"], multi_label=False)
    assert made is not None
    assert made[0, 0] == 0
    assert made.argmax(1).tolist() == [2]


def test_each_of_several_labels_is_learnt_alone() -> None:
    film = np.array([["film" in text] for text in ENGLISH], dtype=np.int64)
    always = np.ones_like(film)
    truth = np.concatenate([TRUTH[:, 1:], film, always], axis=1)
    made = tfidf_probabilities(ENGLISH, truth, ["good and kind", "bad film"], multi_label=True)
    assert made is not None
    assert (made > 0.5).astype(int).tolist() == [[1, 0, 1], [0, 1, 1]]


def test_without_scikit_learn_there_is_none_and_it_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    assert tfidf_probabilities(ENGLISH, TRUTH, ["good"], multi_label=False) is None
    assert "scikit-learn is not installed" in capsys.readouterr().err
