"""The baseline that a classifier has to beat: words and pairs of words weighed by TF-IDF, and logistic regression."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

WITHOUT_SPACES = "\u3040", "\u9fff"
"""Japanese and Chinese, where a word cannot be found by spaces."""


def tfidf_probabilities(
    texts: Sequence[str], truth: Int[np.ndarray, "rows labels"], asked: Sequence[str], *, multi_label: bool
) -> Float[np.ndarray, "asked labels"] | None:
    """Each label's probability for the texts `asked`, learnt from `texts`; None, and a line on stderr, without sklearn.

    Scikit-learn's defaults, but sublinear counts of words and pairs of words (of characters where there are no
    spaces) that at least two texts have.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ModuleNotFoundError:
        print("classify: no baseline, as scikit-learn is not installed (luban[eval])", file=sys.stderr)
        return None
    vectors = _vectoriser(texts)
    train, test = vectors.fit_transform(texts), vectors.transform(asked)
    line = LogisticRegression(C=10.0, max_iter=1000)
    if not multi_label:
        found = line.fit(train, truth.argmax(1))
        made = np.zeros((len(asked), truth.shape[1]))
        made[:, found.classes_] = found.predict_proba(test)  # a label without a training row gets 0
        return made
    made = np.repeat(truth.mean(0, keepdims=True), len(asked), axis=0)
    for place in np.flatnonzero(truth.min(0) < truth.max(0)):
        made[:, place] = line.fit(train, truth[:, place]).predict_proba(test)[:, 1]
    return made


def _vectoriser(texts: Sequence[str]) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    sample = "".join(texts[:1000])
    first, last = WITHOUT_SPACES
    spaceless = sum(first <= sign <= last for sign in sample) > 0.3 * max(1, len(sample))
    rare = 2 if len(texts) >= 50 else 1
    return TfidfVectorizer(
        sublinear_tf=True, ngram_range=(1, 2), min_df=rare, analyzer="char" if spaceless else "word"
    )
