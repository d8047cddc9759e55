"""Figures of a classifier for people: pictures (confusion, ROC, precision and recall, calibration) and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from luban.evaluation.classes import claims, precision_recall, roc
from luban.folder import atomic_file

MOST_CURVES = 8
"""Labels whose curves are drawn, the most frequent ones; more cannot be told apart."""


def draw(
    path: Path,
    truth: Int[np.ndarray, "rows labels"],
    probabilities: Float[np.ndarray, "rows labels"],
    labels: Sequence[str],
    figures: dict[str, Any],
    *,
    multi_label: bool,
) -> None:
    """Write the four pictures of `figures` (`classes.report`) side by side as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panes = plt.subplots(1, 4, figsize=(18, 4.4), constrained_layout=True)
    if multi_label:
        _draw_f1(panes[0], figures)
    else:
        _draw_confusion(panes[0], np.array(figures["confusion"]), labels)
    _draw_curves(panes[1], panes[2], truth, probabilities, labels)
    _draw_calibration(panes[3], truth, probabilities, multi_label=multi_label)
    with atomic_file(path) as work:
        figure.savefig(work, dpi=110, format="png")
    plt.close(figure)


def _draw_confusion(pane: Any, counts: Int[np.ndarray, "labels labels"], labels: Sequence[str]) -> None:
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    pane.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts) if len(labels) <= 20 else ():
        shade = "white" if shares[row, column] > 0.5 else "black"
        pane.text(column, row, str(count), ha="center", va="center", color=shade)
    pane.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    pane.set_yticks(range(len(labels)), labels)
    pane.set(title="confusion", xlabel="taken for", ylabel="is")


def _draw_f1(pane: Any, figures: dict[str, Any]) -> None:
    names = list(figures["labels"])
    pane.barh(names, [figures["labels"][name]["f1"] for name in names])
    pane.set(title="F1 of each label", xlim=(0, 1))


def _draw_curves(
    left: Any,
    right: Any,
    truth: Int[np.ndarray, "rows labels"],
    probabilities: Float[np.ndarray, "rows labels"],
    labels: Sequence[str],
) -> None:
    known = [place for place in range(len(labels)) if 0 < truth[:, place].sum() < len(truth)]
    known = [place for place in known if len(labels) != 2 or place == 1]  # of two labels one says it all
    for place in sorted(known, key=lambda place: -truth[:, place].sum())[:MOST_CURVES]:
        curve = roc(truth[:, place], probabilities[:, place])
        left.plot(curve.x, curve.y, label=f"{labels[place]} ({curve.area:.3f})")
        curve = precision_recall(truth[:, place], probabilities[:, place])
        right.plot(curve.x, curve.y, label=f"{labels[place]} ({curve.area:.3f})")
    left.plot([0, 1], [0, 1], ":", color="gray")
    left.set(title="ROC (area)", xlabel="share of the others taken in", ylabel="share found")
    right.set(title="precision and recall (average precision)", xlabel="recall", ylabel="precision")
    for pane in (left, right) if known else ():
        pane.grid(alpha=0.3)
        pane.legend(loc="lower left" if pane is right else "lower right", fontsize="small")


def _draw_calibration(
    pane: Any,
    truth: Int[np.ndarray, "rows labels"],
    probabilities: Float[np.ndarray, "rows labels"],
    *,
    multi_label: bool,
) -> None:
    bins = claims(truth, probabilities, multi_label=multi_label)
    pane.plot([0, 1], [0, 1], ":", color="gray")
    pane.plot(bins.claimed, bins.found, marker="o")
    pane.set(title=f"calibration (error {bins.error:.3f})", xlabel="claimed probability", ylabel="right")
    pane.grid(alpha=0.3)


def markdown(model: dict[str, Any], baseline: dict[str, Any] | None) -> str:
    """The report as a page: totals beside the baseline's, each label, and the confusion matrix."""
    columns = {"model": model, **({"TF-IDF + logistic regression": baseline} if baseline else {})}
    lines = [f"# {model['rows']} test rows", "", _line(["", *columns]), _line(["---"] * (len(columns) + 1))]
    lines.append(_line(["accuracy", *(f"{of['accuracy']:.4f}" for of in columns.values())]))
    lines += [
        _line([f"{kind} F1", *(f"{of[kind]['f1']:.4f}" for of in columns.values())])
        for kind in ("macro", "micro", "weighted")
    ]
    lines.append(_line(["calibration error", *(f"{of['calibration_error']:.4f}" for of in columns.values())]))
    lines += ["", f"The most frequent answer alone: {model['majority']:.4f}.", ""]
    names = ["support", "precision", "recall", "f1", "roc_auc", "average_precision"]
    lines += [_line(["label", *names]), _line(["---"] * (len(names) + 1))]
    lines += [_line([label, *(_cell(of[name]) for name in names)]) for label, of in model["labels"].items()]
    if "confusion" in model:
        labels = list(model["labels"])
        lines += ["", _line(["is \\ taken for", *labels]), _line(["---"] * (len(labels) + 1))]
        lines += [
            _line([label, *map(str, row)]) for label, row in zip(labels, model["confusion"], strict=True)
        ]
    return "\n".join([*lines, "", "![curves](report.png)", ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell(value: float | int | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"
