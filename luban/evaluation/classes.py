"""How good classes are told apart: counts, precision and recall, what any threshold would give, and honest chances.

Everything is computed here from the rows' true labels and the model's probabilities, with numpy; scikit-learn, where
it defines the same figure, gives the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

BINS = 10


@dataclass(frozen=True)
class Curve:
    """Points of a curve, and the area under it."""

    x: np.ndarray
    y: np.ndarray
    area: float


@dataclass(frozen=True)
class Calibration:
    """Rows by what the model took its chance to be right for, in bins of equal width."""

    claimed: np.ndarray
    """Mean probability in each bin that has rows."""
    found: np.ndarray
    """Share of these rows for which it was right."""
    counts: np.ndarray
    error: float
    """Mean distance between the two, weighted by rows (expected calibration error; Guo et al. 2017)."""


def decided(
    probabilities: Float[np.ndarray, "rows labels"], *, multi_label: bool
) -> Int[np.ndarray, "rows labels"]:
    """0 and 1: the likeliest label of each row, or with `multi_label` all that are likelier than not."""
    if multi_label:
        return (probabilities > 0.5).astype(np.int64)
    return np.eye(probabilities.shape[1], dtype=np.int64)[probabilities.argmax(1)]


def confusion(
    truth: Int[np.ndarray, "rows labels"], guesses: Int[np.ndarray, "rows labels"]
) -> Int[np.ndarray, "labels labels"]:
    """How often a row of the class of each line was taken for that of each column; one label a row."""
    return truth.T @ guesses


def label_counts(
    truth: Int[np.ndarray, "rows labels"], guesses: Int[np.ndarray, "rows labels"]
) -> Int[np.ndarray, "3 labels"]:
    """Of each label: rightly given, wrongly given, wrongly left out. Those of parts of the rows add up."""
    return np.stack([(truth & guesses).sum(0), (~truth & guesses & 1).sum(0), (truth & ~guesses & 1).sum(0)])


def rates(counts: Int[np.ndarray, "3 labels"]) -> Float[np.ndarray, "3 labels"]:
    """Precision, recall and F1 of each label out of `label_counts`; 0 where nothing was given, or nothing to find."""
    right, wrong, missed = counts
    return np.stack(
        [
            _ratio(right, right + wrong),
            _ratio(right, right + missed),
            _ratio(2 * right, 2 * right + wrong + missed),
        ]
    )


def macro_f1(counts: Int[np.ndarray, "3 labels"]) -> float:
    """The mean of the labels' F1, each counting alike however rare it is."""
    return float(rates(counts)[2].mean())


def averages(counts: Int[np.ndarray, "3 labels"]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1: mean over labels (macro), over rows of each label (weighted), of all counts (micro)."""
    each, support = rates(counts), counts[0] + counts[2]
    means = {
        "micro": rates(counts.sum(1, keepdims=True))[:, 0],
        "macro": each.mean(1),
        "weighted": (each * support).sum(1) / max(1, support.sum()),
    }
    return {
        name: dict(zip(("precision", "recall", "f1"), map(float, three), strict=True))
        for name, three in means.items()
    }


def roc(truth: Int[np.ndarray, " rows"], scores: Float[np.ndarray, " rows"]) -> Curve:
    """Share of the others taken in (x) against share of the label's rows found (y), over all thresholds."""
    found, taken = _cumulated(truth, scores)
    x = np.concatenate([[0.0], (taken - found) / max(1, len(truth) - truth.sum())])
    y = np.concatenate([[0.0], found / max(1, truth.sum())])
    return Curve(x, y, float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum()))


def precision_recall(truth: Int[np.ndarray, " rows"], scores: Float[np.ndarray, " rows"]) -> Curve:
    """Recall (x) against precision (y), over all thresholds; the area is the average precision."""
    found, taken = _cumulated(truth, scores)
    recall, precision = found / max(1, truth.sum()), found / taken
    area = float((np.diff(recall, prepend=0.0) * precision).sum())
    return Curve(np.concatenate([[0.0], recall]), np.concatenate([[1.0], precision]), area)


def calibration(
    right: Int[np.ndarray, " rows"], claimed: Float[np.ndarray, " rows"], *, bins: int = BINS
) -> Calibration:
    """How far probabilities can be believed: `claimed` chances beside how often it was `right`.

    Source: Guo et al. 2017, eq. 3 (arXiv:1706.04599).
    """
    place = np.minimum((claimed * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    has = counts > 0
    mean_claimed = np.bincount(place, claimed, bins)[has] / counts[has]
    mean_found = np.bincount(place, right, bins)[has] / counts[has]
    error = float((counts[has] * np.abs(mean_claimed - mean_found)).sum() / max(1, len(claimed)))
    return Calibration(mean_claimed, mean_found, counts[has], error)


def report(
    truth: Int[np.ndarray, "rows labels"],
    probabilities: Float[np.ndarray, "rows labels"],
    labels: Sequence[str],
    *,
    multi_label: bool = False,
) -> dict[str, Any]:
    """All figures of a set of rows, JSON-able. `accuracy` is the share of rows whose labels are all right."""
    guesses = decided(probabilities, multi_label=multi_label)
    counts = label_counts(truth, guesses)
    each = rates(counts)
    made: dict[str, Any] = {
        "rows": len(truth),
        "accuracy": float((truth == guesses).all(1).mean()),
        "majority": _majority(truth),
        **averages(counts),
        "calibration_error": claims(truth, probabilities, multi_label=multi_label).error,
        "labels": {
            label: {
                "support": int(truth[:, place].sum()),
                **dict(zip(("precision", "recall", "f1"), map(float, each[:, place]), strict=True)),
                **_areas(truth[:, place], probabilities[:, place]),
            }
            for place, label in enumerate(labels)
        },
    }
    if not multi_label:
        made["confusion"] = confusion(truth, guesses).tolist()
    return made


def claims(
    truth: Int[np.ndarray, "rows labels"],
    probabilities: Float[np.ndarray, "rows labels"],
    *,
    multi_label: bool,
) -> Calibration:
    """The calibration of the label that was chosen, or with `multi_label` of every label's probability."""
    if multi_label:
        return calibration(truth.ravel(), probabilities.ravel())
    chosen = probabilities.argmax(1)
    return calibration(truth[np.arange(len(truth)), chosen], probabilities.max(1))


def _majority(truth: Int[np.ndarray, "rows labels"]) -> float:
    """The accuracy of always answering what is most frequent."""
    _, counts = np.unique(truth, axis=0, return_counts=True)
    return float(counts.max() / len(truth))


def _areas(truth: Int[np.ndarray, " rows"], scores: Float[np.ndarray, " rows"]) -> dict[str, float | None]:
    """Areas under both curves; None where all rows have the label, or none."""
    if truth.min() == truth.max():
        return {"roc_auc": None, "average_precision": None}
    return {"roc_auc": roc(truth, scores).area, "average_precision": precision_recall(truth, scores).area}


def _cumulated(
    truth: Int[np.ndarray, " rows"], scores: Float[np.ndarray, " rows"]
) -> tuple[np.ndarray, np.ndarray]:
    """At each threshold, from the highest on: rows of the label taken, and all rows taken. Equal scores go together."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=np.inf))
    return truth[order].cumsum()[last], last + 1


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)
