"""How good a reward model is, on answers that it has not seen: `report.json` and one picture.

Accuracy says how often the better answer wins; calibration whether a reward difference means what Bradley-Terry
says it does, a chance of s(difference); the histogram whether good and bad answers are apart at all. What the longer
answer alone would score stands beside it: reward models like to learn length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from luban.folder import atomic_file

BINS = 10


def pair_report(
    rewards: Float[np.ndarray, "pairs 2"], tokens: Float[np.ndarray, "pairs 2"]
) -> dict[str, Any]:
    """The figures of pairs, the better answer first; a draw is half right."""
    difference = rewards[:, 0] - rewards[:, 1]
    longer = np.sign(tokens[:, 0] - tokens[:, 1])
    calibration, error = calibrate(difference)
    return {
        "pairs": len(rewards),
        "accuracy": _share(np.sign(difference)),
        "accuracy_of_longer": _share(longer),
        "mean": float(rewards.mean()),
        "std": float(rewards.std()),
        "reward_good": float(rewards[:, 0].mean()),
        "reward_bad": float(rewards[:, 1].mean()),
        "calibration": calibration,
        "calibration_error": error,
    }


def step_report(rewards: list[list[float]], labels: list[list[int]]) -> dict[str, Any]:
    """The figures of judged steps: right ones have a positive reward, and answers none but positive ones."""
    flat, right = np.concatenate(rewards), np.concatenate(labels).astype(bool)
    good, bad = flat[right], flat[~right]
    first_wrong = [
        _first(np.array(told) <= 0) == _first(np.array(of) == 0)
        for told, of in zip(rewards, labels, strict=True)
    ]
    return {
        "solutions": len(rewards),
        "steps": len(flat),
        "accuracy": float(((flat > 0) == right).mean()),
        "accuracy_of_commoner": float(max(right.mean(), 1 - right.mean())),
        "first_wrong_step_found": float(np.mean(first_wrong)),
        "reward_good": float(good.mean()) if len(good) else None,
        "reward_bad": float(bad.mean()) if len(bad) else None,
    }


def calibrate(difference: Float[np.ndarray, " pairs"]) -> tuple[list[dict[str, float]], float]:
    """Chances told, in bins from 0.5 to 1, with the share that was right; and how far they are apart on average.

    The chance told of a pair is that of the answer which the model likes better.
    """
    told = 1 / (1 + np.exp(-np.abs(difference)))
    right = np.where(difference == 0, 0.5, difference > 0)
    number = np.minimum(((told - 0.5) * 2 * BINS).astype(int), BINS - 1)
    bins = [
        {"told": float(told[at].mean()), "right": float(right[at].mean()), "pairs": int(at.sum())}
        for at in (number == place for place in range(BINS))
        if at.any()
    ]
    error = sum(one["pairs"] * abs(one["told"] - one["right"]) for one in bins) / max(1, len(difference))
    return bins, error


def draw(
    path: Path,
    good: Float[np.ndarray, " good"],
    bad: Float[np.ndarray, " bad"],
    calibration: list[dict[str, float]],
) -> None:
    """Write the histogram of rewards, and beside it the calibration where there is one, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    columns = 2 if calibration else 1
    figure, panes = plt.subplots(1, columns, figsize=(11, 4), squeeze=False, constrained_layout=True)
    left = panes[0, 0]
    edges = np.histogram_bin_edges(np.concatenate([good, bad]), bins=40).tolist()
    for values, name in ((good, "better"), (bad, "worse")):
        left.hist(values, bins=edges, alpha=0.6, label=name)
    left.set(title="rewards held out", xlabel="reward", ylabel="answers")
    left.legend()
    if calibration:
        right = panes[0, 1]
        right.plot([0.5, 1], [0.5, 1], color="grey", linestyle="--", label="as told")
        right.plot([b["told"] for b in calibration], [b["right"] for b in calibration], marker="o")
        right.set(title="calibration", xlabel="chance told", ylabel="share right", ylim=(0, 1.02))
        right.legend()
    with atomic_file(path) as work:
        figure.savefig(work, dpi=110, format="png")
    plt.close(figure)


def _share(signs: Float[np.ndarray, " pairs"]) -> float:
    return float(((signs + 1) / 2).mean())


def _first(true: np.ndarray) -> int:
    """The place of the first True, -1 if there is none."""
    return int(true.argmax()) if true.any() else -1
