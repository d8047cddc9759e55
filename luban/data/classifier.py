"""`luban data classifier`: learns to tell good text from raw text; the step `quality` filters with it.

Good texts are curated ones (books, reference works), raw ones are what is to be filtered. A held-out part, chosen
by the texts' hashes, tells how well the model ranks (AUC) and how far its probabilities can be believed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from luban.folder import stage_folder

BINS = 10
TELLING = 20


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a quality classifier: hashed words and pairs of words, logistic regression."""

    good: tuple[Path, ...]
    """Documents folders or files of the quality wanted."""
    raw: tuple[Path, ...]
    """Documents folders or files as they come, e.g. a sample of what is to be filtered."""
    out: Path
    """The model folder to make."""
    bits: Annotated[int, Ge(8), Le(24)] = 18
    """2 to this power buckets for words and pairs; 20 for more text, at 7/8 of the speed."""
    epochs: Annotated[int, Ge(1)] = 3
    """Passes over the training texts. More of them learn by heart what is labelled wrong."""
    learning_rate: Annotated[float, Gt(0)] = 0.1
    """AdaGrad's step."""
    holdout: Annotated[float, Gt(0), Lt(1)] = 0.1
    """The share of the texts, by their hashes, that only measures."""
    seed: int = 0
    """Another seed holds out other texts and trains in another order."""


def run(config: Config) -> dict[str, Any]:
    """Make the model folder; returns sizes, losses, and what the held-out part says."""
    started = time.monotonic()
    inputs = [*config.good, *config.raw]
    with stage_folder(config.out, stage="data classifier", config=config, inputs=inputs) as (folder, metrics):
        metrics.update(_train(config, folder))
        metrics["seconds"] = round(time.monotonic() - started, 2)
    if metrics["held_out"]["auc"] < 0.6:
        print(
            f"data classifier: AUC {metrics['held_out']['auc']}: it hardly tells them apart", file=sys.stderr
        )
    return metrics


def show(results: dict[str, Any]) -> None:
    """The result as a short page."""
    measured = results["held_out"]
    for side in ("good", "raw"):
        print(
            f"{side:<12}{results[side]['train']:,} texts to train on, {results[side]['held_out']:,} held out"
        )
    print(f"loss        {' '.join(f'{loss:.4f}' for loss in results['losses'])} nats, epoch by epoch")
    print(
        f"AUC         {measured['auc']:.4f}   accuracy {measured['accuracy']:.4f}   log loss {measured['log_loss']:.4f}"
    )
    print(f"calibration off by {measured['calibration_error']:.4f} on average; score: share good (texts)")
    for row in measured["calibration"]:
        print(f"            {row['score']:.3f}: {row['good']:.3f} ({row['texts']:,})")
    kept = measured["pareto_kept"]
    print(f"Pareto 9    keeps {kept['good']:.1%} of good and {kept['raw']:.1%} of raw")
    for side in ("good", "raw"):
        print(f"tells {side:<5} {', '.join(map(repr, results['telling'][side]))}")


def _train(config: Config, folder: Path) -> dict[str, Any]:
    import numpy as np

    from luban.data import linear
    from luban.data.packs import packs
    from luban.data.progress import announce

    texts = announce(_labelled(config), stage="data classifier", noun="documents")
    sides = Sides(texts, config.holdout, config.seed)
    features = linear.Features.of(packs(sides.training()), bits=config.bits)
    _require_both(config, sides)
    model, losses = linear.train(
        features,
        np.array(sides.labels),
        bits=config.bits,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
    scores = np.concatenate([model.score(pack) for pack in packs(sides.held)])
    sample = next(packs(sides.held[:: max(1, len(sides.held) // 2000)]))
    found = {
        **sides.counts(),
        "losses": [round(loss, 5) for loss in losses],
        "held_out": measure(scores, np.array(sides.held_labels, bool)),
        "telling": linear.telling(model, features, sample, count=TELLING),
    }
    model.save(folder, held_out=found["held_out"])
    return found


class Sides:
    """Sends labelled texts to training, and a share of them, by hash, to the held-out part, kept in memory."""

    def __init__(self, texts: Iterator[tuple[str, bool]], share: float, seed: int) -> None:
        self._texts, self._share, self._seed = texts, share, seed
        self.labels: list[bool] = []
        self.held: list[str] = []
        self.held_labels: list[bool] = []

    def training(self) -> Iterator[str]:
        """The texts to train on; when they are through, all is counted."""
        from luban.data.chance import draw

        for text, good in self._texts:
            if draw(text.encode("utf-8"), self._seed) < self._share:
                self.held.append(text)
                self.held_labels.append(good)
            else:
                self.labels.append(good)
                yield text

    def counts(self) -> dict[str, dict[str, int]]:
        """Texts by label and side."""
        sides = {"train": self.labels, "held_out": self.held_labels}
        return {
            name: {side: sum(label == good for label in labels) for side, labels in sides.items()}
            for name, good in (("good", True), ("raw", False))
        }


def measure(scores: Any, good: Any) -> dict[str, Any]:
    """AUC, accuracy, log loss, calibration and what the Pareto rule would keep, of scores [texts] against labels."""
    import numpy as np

    sure = np.clip(np.where(good, scores, 1 - scores), 1e-12, 1)
    table = calibration(scores, good)
    off = sum(abs(row["score"] - row["good"]) * row["texts"] for row in table) / len(scores)
    kept = (2 - scores) ** -9.0
    return {
        "auc": round(auc(scores, good), 5),
        "accuracy": round(float(((scores > 0.5) == good).mean()), 5),
        "log_loss": round(float(-np.log(sure).mean()), 5),
        "calibration_error": round(off, 5),
        "calibration": table,
        "pareto_kept": {
            "good": round(float(kept[good].mean()), 4),
            "raw": round(float(kept[~good].mean()), 4),
        },
    }


def auc(scores: Any, good: Any) -> float:
    """The chance that a good text scores above a raw one (equal scores count half)."""
    import numpy as np

    _, place, times = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(times) - (times - 1) / 2)[place]
    wins = rank[good].sum() - good.sum() * (good.sum() + 1) / 2
    return float(wins / (good.sum() * (~good).sum()))


def calibration(scores: Any, good: Any) -> list[dict[str, float]]:
    """Per tenth of the score's range that has texts: mean score, share of good texts, texts."""
    import numpy as np

    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    return [
        {
            "score": round(float(scores[bins == index].mean()), 4),
            "good": round(float(good[bins == index].mean()), 4),
            "texts": int((bins == index).sum()),
        }
        for index in np.unique(bins)
    ]


def _labelled(config: Config) -> Iterator[tuple[str, bool]]:
    from luban.data.sources import read_documents

    for paths, good in ((config.good, True), (config.raw, False)):
        for document in read_documents(paths):
            yield document.text, good


def _require_both(config: Config, sides: Sides) -> None:
    from luban.errors import DataError

    for name, counted in sides.counts().items():
        paths: Sequence[Path] = getattr(config, name)
        if not counted["train"] or not counted["held_out"]:
            raise DataError(
                f"too few texts: {counted['train']} to train on, {counted['held_out']} held out",
                where=", ".join(map(str, paths)),
                hint="more documents, or a larger --holdout",
            )
