"""A frozen model as a classifier: a frame around the text, words for the labels, a prior taken off.

Nothing is trained. Everything is asked through `lm.score`, so any `LM` will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from luban.lm import LM
from luban.tuning.labelled import Labelled
from luban.tuning.prompting.calibration import Calibration, Prior, calibrated, mean_share
from luban.tuning.prompting.template import Frame
from luban.tuning.prompting.verbaliser import LabelLogps, Verbaliser, WordLogps

NOTHING = tuple(Labelled(text=text, second=text, where=repr(text)) for text in ("N/A", "[MASK]", ""))
"""Texts that say nothing. Source: Zhao et al. 2021, section 5 (arXiv:2102.09690)."""


@dataclass(frozen=True, kw_only=True)
class PromptClassifier:
    """How a model is asked, and how its answer is read. `prior` None leaves the answer as it is."""

    lm: LM
    frame: Frame
    verbaliser: Verbaliser
    prior: Prior | None = None

    def ask(self, rows: Sequence[Labelled]) -> WordLogps:
        """Log-probability of each answer word for each row, as the model gives them."""
        return word_logps(self.lm, self.frame, rows, self.verbaliser.words)

    def read(self, logps: WordLogps) -> LabelLogps:
        """Log-probability of each label, from what `ask` gave."""
        return self.verbaliser.label_logps(calibrated(logps, self.prior))

    def calibrate(self, method: Calibration, logps: WordLogps, *, premise: str = "") -> PromptClassifier:
        """The same classifier with the prior of `method`; `logps` are its answers on the rows to be classified.

        `premise`, for the method `domain`, stands for the template's own words before the answer.
        """
        if method == "none":
            return replace(self, prior=None)
        if method == "contextual":
            return replace(self, prior=mean_share(self.ask(NOTHING)))
        if method == "batch":
            return replace(self, prior=mean_share(logps))
        premise = premise or self.frame.template.premise()
        scores = self.lm.score([(premise, word) for word in self.verbaliser.words])
        return replace(self, prior=np.array([score.total for score in scores]))


def word_logps(lm: LM, frame: Frame, rows: Sequence[Labelled], words: Sequence[str]) -> WordLogps:
    """Log-probability of each of `words` in the slot (with the text, where one comes after), for each row."""
    scores = lm.score([frame.pair(row, word) for row in rows for word in words])
    totals = np.array([score.total for score in scores], dtype=np.float64)
    return totals.reshape(len(rows), len(words))
