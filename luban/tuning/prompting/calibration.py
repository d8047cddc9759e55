"""What a model favours whatever the text, taken off what it says about a text.

Frequent words are favoured, and those of the last example. The methods differ in where they see that prior:

    contextual   after the same examples, where the text says nothing     Zhao et al. 2021 (arXiv:2102.09690)
    domain       after a few words of the kind of text alone              Holtzman et al. 2021 (arXiv:2104.08315)
    batch        in the mean over the rows that are asked about           Zhou et al. 2024 (arXiv:2309.17249)

All of them divide by it, word by word. `batch` needs no further question, but takes the labels to be about equally
frequent in those rows.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

from luban.tuning.prompting.verbaliser import WordLogps, normalised

Calibration = Literal["none", "contextual", "domain", "batch"]
Prior = Float[np.ndarray, " words"]


def mean_share(logps: WordLogps) -> Prior:
    """Logarithm of the words' mean probability, each row's probabilities summing to 1.

    Source: Zhao et al. 2021, section 5, over texts that say nothing; Zhou et al. 2024, eq. 4, over rows.
    """
    shares = normalised(logps)
    return np.logaddexp.reduce(shares, axis=0) - np.log(len(shares))


def calibrated(logps: WordLogps, prior: Prior | None) -> WordLogps:
    """Log-probabilities among the words, with what the prior alone explains taken off."""
    return normalised(logps if prior is None else logps - prior)
