"""Figures of classifiers: equal to scikit-learn's, and by hand where that has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from luban.evaluation.class_pictures import draw, markdown
from luban.evaluation.classes import (
    calibration,
    confusion,
    decided,
    label_counts,
    macro_f1,
    precision_recall,
    report,
    roc,
)

LABELS = ("a", "b", "c")
metrics: Any = sklearn.metrics  # its stubs know neither zero_division=0 nor what average=None returns


def drawn(seed: int, rows: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """True labels, one a row, and probabilities that know a little of them; many are equal."""
    random = np.random.default_rng(seed)
    truth = np.eye(labels, dtype=np.int64)[random.integers(0, labels, rows)]
    raw = np.round(random.random((rows, labels)) + 0.4 * truth, 1) + 0.01
    return truth, raw / raw.sum(1, keepdims=True)


@given(seed=st.integers(0, 10_000), rows=st.integers(2, 60), labels=st.integers(2, 5))
def test_precision_recall_and_f1_equal_scikit_learns(seed: int, rows: int, labels: int) -> None:
    truth, probabilities = drawn(seed, rows, labels)
    named = [f"l{number}" for number in range(labels)]
    made = report(truth, probabilities, named)
    real, taken = truth.argmax(1), probabilities.argmax(1)
    for average in ("micro", "macro", "weighted"):
        known = metrics.precision_recall_fscore_support(
            real, taken, labels=range(labels), average=average, zero_division=0
        )[:3]
        assert tuple(made[average].values()) == pytest.approx(known)
    known = metrics.precision_recall_fscore_support(real, taken, labels=range(labels), zero_division=0)
    for place, name in enumerate(named):
        mine = made["labels"][name]
        assert [mine[key] for key in ("precision", "recall", "f1", "support")] == pytest.approx(
            [float(figures[place]) for figures in known]
        )
    assert made["accuracy"] == pytest.approx(metrics.accuracy_score(real, taken))
    assert made["confusion"] == metrics.confusion_matrix(real, taken, labels=range(labels)).tolist()


@given(seed=st.integers(0, 10_000), rows=st.integers(4, 60))
def test_areas_under_both_curves_equal_scikit_learns(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, rows)
    truth[:2] = 0, 1
    scores = np.round(random.random(rows), 1)
    assert roc(truth, scores).area == pytest.approx(metrics.roc_auc_score(truth, scores))
    assert precision_recall(truth, scores).area == pytest.approx(
        metrics.average_precision_score(truth, scores)
    )
    theirs = metrics.roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc(truth, scores).x, theirs[0])
    np.testing.assert_allclose(roc(truth, scores).y, theirs[1])


@given(seed=st.integers(0, 10_000), rows=st.integers(2, 40))
def test_figures_of_several_labels_equal_scikit_learns(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    truth, probabilities = random.integers(0, 2, (rows, 3)), random.random((rows, 3))
    made, taken = report(truth, probabilities, LABELS, multi_label=True), probabilities > 0.5
    assert made["accuracy"] == pytest.approx(metrics.accuracy_score(truth, taken))
    for average in ("micro", "macro", "weighted"):
        known = metrics.f1_score(truth, taken, average=average, zero_division=0)
        assert made[average]["f1"] == pytest.approx(known)
    assert "confusion" not in made


def test_a_confusion_by_hand() -> None:
    truth = np.eye(2, dtype=np.int64)[[0, 0, 0, 1]]
    guesses = np.eye(2, dtype=np.int64)[[0, 1, 0, 1]]
    assert confusion(truth, guesses).tolist() == [[2, 1], [0, 1]]
    assert label_counts(truth, guesses).tolist() == [[2, 1], [0, 1], [1, 0]]
    assert macro_f1(label_counts(truth, guesses)) == pytest.approx((0.8 + 2 / 3) / 2)


def test_calibration_by_hand() -> None:
    made = calibration(np.array([1, 0, 1, 1]), np.array([0.65, 0.61, 0.95, 1.0]))
    np.testing.assert_allclose(made.claimed, [0.63, 0.975])
    np.testing.assert_allclose(made.found, [0.5, 1.0])
    assert made.error == pytest.approx(0.5 * 0.13 + 0.5 * 0.025)


def test_several_labels_are_those_likelier_than_not() -> None:
    probabilities = np.array([[0.6, 0.7, 0.1], [0.1, 0.2, 0.3]])
    assert decided(probabilities, multi_label=True).tolist() == [[1, 1, 0], [0, 0, 0]]
    assert decided(probabilities, multi_label=False).tolist() == [[0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_report_is_drawn_and_written(multi_label: bool, tmp_path: Path) -> None:
    truth, probabilities = drawn(1, 40, 3)
    figures = report(truth, probabilities, LABELS, multi_label=multi_label)
    json.dumps(figures)
    draw(tmp_path / "report.png", truth, probabilities, LABELS, figures, multi_label=multi_label)
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    page = markdown(figures, figures)
    assert f"| accuracy | {figures['accuracy']:.4f} | {figures['accuracy']:.4f} |" in page
    assert ("taken for" in page) is not multi_label


def test_a_label_that_no_test_row_has_is_no_fault(tmp_path: Path) -> None:
    truth, probabilities = drawn(1, 20, 3)
    truth[:] = [1, 0, 0]
    figures = report(truth, probabilities, LABELS)
    assert figures["labels"]["b"]["roc_auc"] is None
    draw(tmp_path / "report.png", truth, probabilities, LABELS, figures, multi_label=False)
    assert "| b | 0 |" in markdown(figures, None)
