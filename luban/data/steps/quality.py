"""Quality: a classifier's score decides, by chance as in GPT-3, by a threshold, or by the corpus's best share.

The model is a folder of `luban data classifier`, opened once per process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from luban.data.chance import draw
from luban.data.linear import open_model
from luban.data.quantiles import quantile
from luban.data.step import Batch, Drop, Edit, Outcome

LOW = "low_quality"
DECISION = np.dtype([("kept", "?"), ("score", "<f4")])


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Score documents; keep the good ones and, by Pareto's rule, some of the others."""

    model: Path
    """A model folder of `luban data classifier`."""
    rule: Literal["pareto", "threshold", "none"] = "pareto"
    """Keep if a Pareto draw is above 1 - score, if the score reaches `threshold`, or always (scores only)."""
    alpha: Annotated[float, Gt(0)] = 9.0
    """Pareto's exponent: a document of score s stays with probability (2 - s)^-alpha."""
    threshold: Annotated[float, Ge(0), Le(1)] = 0.5
    """The least score that stays, for `rule: threshold`."""
    seed: int = 0
    """Another seed is another draw; a text's draw depends on nothing else."""

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        """Reason `low_quality`, with the score.

        Source: Brown et al. 2020 (GPT-3), appendix A: `np.random.pareto(alpha) > 1 - score`.
        """
        scores = open_model(Path(self.model)).score(batch.packed)
        kept = self._kept(batch, scores)
        return [_outcome(float(score), bool(stays)) for score, stays in zip(scores, kept, strict=True)]

    def _kept(self, batch: Batch, scores: np.ndarray) -> np.ndarray:
        if self.rule == "none":
            return np.ones(len(scores), bool)
        if self.rule == "threshold":
            return scores >= self.threshold
        return pareto(draws(batch, self.seed), self.alpha) > 1 - scores


@dataclass(frozen=True, kw_only=True)
class QualityShare:
    """Keep the documents with the best scores: a share of the whole corpus."""

    model: Path
    """A model folder of `luban data classifier`."""
    share: Annotated[float, Gt(0), Le(1)] = 0.5
    """How much of the documents stays, best first; equal scores at the border all stay."""

    def collect(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """Each document's score."""
        return {"score": open_model(Path(self.model)).score(batch.packed).astype(np.float32)}

    def resolve(self, parts: Sequence[Mapping[str, Path]], decisions: Sequence[Path], *, memory: int) -> None:  # noqa: ARG002 - takes a few megabytes whatever the corpus
        """Find the score that the share reaches down to."""
        scores = [np.load(part["score"], mmap_mode="r") for part in parts]
        worst = quantile(lambda: (1 - each for each in scores), self.share)
        for each, path in zip(scores, decisions, strict=True):
            decided = np.empty(len(each), DECISION)
            decided["score"], decided["kept"] = each, 1 - each <= np.float32(worst)
            np.save(path, decided)

    def apply(self, batch: Batch, decisions: np.ndarray) -> Sequence[Outcome]:
        """Reason `low_quality`, with the score."""
        mine = decisions[batch.first : batch.first + len(batch.documents)]
        return [_outcome(float(row["score"]), bool(row["kept"])) for row in mine]


def draws(batch: Batch, seed: int) -> np.ndarray:
    """A number in [0, 1) for each text, by its hash."""
    packed = batch.packed
    whole = packed.buffer.data
    places = zip(packed.starts.tolist(), packed.lengths.tolist(), strict=True)
    return np.array([draw(whole[start : start + length], seed) for start, length in places])


def pareto(uniform: np.ndarray, alpha: float) -> np.ndarray:
    """Draws of NumPy's `pareto` (Lomax: P(X > x) = (1 + x)^-alpha) from uniform ones."""
    return (1 - uniform) ** (-1 / alpha) - 1


def _outcome(score: float, stays: bool) -> Outcome:
    return Edit(meta={"quality": round(score, 5)}) if stays else Drop(LOW, score)
