"""How the answers compare: each way to read them beside the commonest label and TF-IDF on the same labelled rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from luban.evaluation.classes import report
from luban.evaluation.questions import wilson
from luban.evaluation.tfidf import tfidf_probabilities
from luban.folder import write_text
from luban.tuning.labelled import Labelled, targets_of

Probabilities = Float[np.ndarray, "rows labels"]


def compare(
    rows: Sequence[Labelled],
    answers: Mapping[str, Probabilities],
    labels: Sequence[str],
    *,
    known: Sequence[Labelled],
) -> dict[str, dict[str, Any]]:
    """Figures by name: the answers', the commonest label's and, with `known` rows, those of TF-IDF on them.

    The commonest label is that of the known rows, or else of the rows themselves.
    """
    named = dict(answers)
    if known:
        texts = [row.whole for row in known]
        truth, asked = targets_of(known, labels), [row.whole for row in rows]
        if (learnt := tfidf_probabilities(texts, truth, asked, multi_label=False)) is not None:
            named[f"TF-IDF + logistic regression on {len(known)} rows"] = learnt
    commonest, _ = Counter(row.labels[0] for row in known or rows).most_common(1)[0]
    always = np.array([[float(label == commonest) for label in labels]])
    named[f"always '{commonest}'"] = np.repeat(always, len(rows), axis=0)
    truth = targets_of(rows, labels)
    return {name: _figures(report(truth, chances, labels)) for name, chances in named.items()}


def _figures(told: dict[str, Any]) -> dict[str, Any]:
    low, high = wilson(round(told["accuracy"] * told["rows"]), told["rows"])
    named = {"accuracy": told["accuracy"], "low": low, "high": high, "macro_f1": told["macro"]["f1"]}
    return {**named, **{name: told[name] for name in ("calibration_error", "labels", "confusion")}}


def write_predictions(
    path: Path, rows: Sequence[Labelled], probabilities: Probabilities, labels: Sequence[str]
) -> None:
    """Write a line per row: the likeliest label and all chances, beside the true one where it is known."""
    lines = []
    for row, chances in zip(rows, probabilities, strict=True):
        line: dict[str, Any] = {"where": row.where, "text": row.text}
        line |= {} if row.second is None else {"second": row.second}
        line |= {"is": row.labels[0]} if row.labels else {}
        line["label"] = labels[int(chances.argmax())]
        line["probabilities"] = {label: round(float(p), 6) for label, p in zip(labels, chances, strict=True)}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))
