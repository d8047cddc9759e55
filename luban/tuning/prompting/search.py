"""Which words answer best: found with a few labelled rows, the model unchanged.

Candidates are what the user lists, or what the model itself would say in the slot. A word is good for a label if the
model says it more often after texts of that label than after others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from luban.errors import DataError
from luban.lm import LM, Sampling
from luban.tuning.labelled import Labelled
from luban.tuning.prompting.template import Template
from luban.tuning.prompting.verbaliser import WordLogps, normalised

DRAWS = 4
"""How many answers are drawn after each labelled text to find candidates."""
MOST_CANDIDATES = 200
LEAST_SPREAD = 0.1
"""Variance added to each word's: a few rows that agree by chance are not certain."""
WORD = re.compile(r"[^\W\d_]{2,}")


def said_in_slot(lm: LM, template: Template, rows: Sequence[Labelled], *, seed: int) -> list[str]:
    """Words that the model draws at the answer's place after each of `rows`, the most frequent first."""
    asked = [template.asked(row)[0].rstrip() for row in rows]
    found: Counter[str] = Counter()
    for draw in range(DRAWS):
        made = lm.generate(asked, Sampling(max_tokens=4, temperature=1.0, seed=seed + draw))
        found.update(word.group().lower() for answer in made if (word := WORD.search(answer.text)))
    return [word for word, _ in found.most_common(MOST_CANDIDATES)]


def best_words(
    logps: WordLogps,
    given: Sequence[str],
    candidates: Sequence[str],
    *,
    labels: Sequence[str],
    per_label: int,
) -> dict[str, tuple[str, ...]]:
    """For each of `labels` the candidates that favour it most, none for two labels; `given` are the rows' labels.

    Raises DataError where not enough candidates favour a label.
    """
    favours = np.stack([preference(logps, [label == of_row for of_row in given]) for label in labels])
    owner = favours.argmax(axis=0)
    chosen: dict[str, tuple[str, ...]] = {}
    for place, label in enumerate(labels):
        own = [
            word for word in np.argsort(-favours[place]) if owner[word] == place and favours[place, word] > 0
        ]
        if len(own) < per_label:
            what = f"{len(own)} of {len(candidates)} candidate words favour '{label}', and {per_label} are wanted"
            raise DataError(
                what, where="answer search", hint="more candidates or labelled rows, or fewer words"
            )
        chosen[label] = tuple(str(candidates[word]) for word in own[:per_label])
    return chosen


def preference(logps: WordLogps, own: Sequence[bool]) -> Float[np.ndarray, " words"]:
    """By word: its mean log-probability in a label's `own` rows less that in the others, in standard errors.

    Source: the likelihood ratio of Schick et al. 2020 (arXiv:2010.13641), in logarithms; divided by its standard
    error, because rare words vary most.
    """
    shares, mask = normalised(logps), np.array(own)
    inside, outside = shares[mask], shares[~mask]
    error = np.sqrt(_variance(inside) / len(inside) + _variance(outside) / len(outside))
    return (inside.mean(axis=0) - outside.mean(axis=0)) / error


def _variance(values: Float[np.ndarray, "rows words"]) -> Float[np.ndarray, " words"]:
    return values.var(axis=0, ddof=min(1, len(values) - 1)) + LEAST_SPREAD
