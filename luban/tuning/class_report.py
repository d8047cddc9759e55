"""How good a classifier is on rows it has not seen: figures, a page, pictures, and every prediction."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luban.evaluation.class_pictures import draw, markdown
from luban.evaluation.classes import report
from luban.evaluation.tfidf import tfidf_probabilities
from luban.folder import write_json, write_text
from luban.tuning.classified import Reader, write_predictions
from luban.tuning.labelled import Labelled, targets_of

PREDICTIONS = "predictions.jsonl"


def write_report(
    out: Path, reader: Reader, rows: Sequence[Labelled], *, known: Sequence[Labelled], batch: int
) -> dict[str, Any]:
    """Write report.json, report.md, report.png and predictions.jsonl; returns totals of the model and the baseline.

    The baseline learns from the rows `known`; without any there is none.
    """
    truth = targets_of(rows, reader.labels)
    started = time.monotonic()
    probabilities = reader.probabilities(rows, batch=batch)
    print(f"classify: {len(rows):,} rows read in {time.monotonic() - started:.1f} s", file=sys.stderr)
    figures = report(truth, probabilities, reader.labels, multi_label=reader.multi_label)
    baseline = _baseline(reader, rows, truth, known)
    write_predictions(out / PREDICTIONS, rows, probabilities, reader)
    draw(out / "report.png", truth, probabilities, reader.labels, figures, multi_label=reader.multi_label)
    write_text(out / "report.md", markdown(figures, baseline))
    write_json(out / "report.json", {"model": figures, "baseline": baseline})
    made = {"test": _totals(figures)}
    return {**made, "baseline": _totals(baseline)} if baseline else made


def _baseline(
    reader: Reader, rows: Sequence[Labelled], truth: np.ndarray, known: Sequence[Labelled]
) -> dict[str, Any] | None:
    if not known:
        return None
    made = tfidf_probabilities(
        [row.whole for row in known],
        targets_of(known, reader.labels),
        [row.whole for row in rows],
        multi_label=reader.multi_label,
    )
    if made is None:
        return None
    return report(truth, made, reader.labels, multi_label=reader.multi_label)


def _totals(figures: dict[str, Any]) -> dict[str, float]:
    return {
        "rows": figures["rows"],
        "accuracy": round(figures["accuracy"], 4),
        "macro_f1": round(figures["macro"]["f1"], 4),
        "calibration_error": round(figures["calibration_error"], 4),
    }
