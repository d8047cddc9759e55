"""The quality classifier beside scikit-learn's hashed words and SGD: prose-like against reference-like manuals."""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from factory import corpus
from factory.measure import Work, apart, in_turn, rates, save, table
from luban.data import linear
from luban.data.classifier import auc
from luban.data.packs import packs

GOOD = {
    "anarchism",
    "handbook",
    "reference-en",
    "debian-policy",
    "developers-reference",
    "sqlite3-doc",
    "git-doc",
}
BITS, EPOCHS = 18, 3


def run(options: Namespace) -> None:
    training, test, labels, _ = _texts(options.megabytes)
    size, measured = (sum(len(text.encode()) for text in texts) / 1e6 for texts in (training, test))
    sides = {"luban": _luban, "scikit-learn": _sklearn}
    works: dict[str, list[Work]] = in_turn(
        {
            f"{side}, {what}": (lambda make=make, what=what: apart(make, options.megabytes, what))
            for what in ("train", "score")
            for side, make in sides.items()
        },
        options.rounds,
    )
    found: dict[str, Any] = {
        "megabytes": {"train": size, "score": measured},
        "texts": {"train": len(training), "score": len(test), "good share": float(np.mean(labels))},
        "train": rates(size, {side: works[f"{side}, train"] for side in sides}, "luban"),
        "score": rates(measured, {side: works[f"{side}, score"] for side in sides}, "luban"),
        "auc": {side: works[f"{side}, score"][0].value for side in sides},
    }
    table(f"classifier, training: {len(training):,} texts, {size:.1f} MB, {EPOCHS} epochs", found["train"])
    table(f"classifier, scoring: {len(test):,} texts, {measured:.1f} MB", found["score"])
    table("AUC on held-out texts", [found["auc"]])
    print(save("classifier", found))


def _texts(megabytes: float) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Training and test texts, and their labels; as much of either kind."""
    documents = corpus.read("mixed")
    good = [document for document in documents if document.source in GOOD]
    other = [document for document in documents if document.source not in GOOD]
    both = [*good, *random.Random(0).sample(other, len(good))]
    random.Random(1).shuffle(both)
    limit, taken = megabytes * 1e6, 0.0
    for count, document in enumerate(both, 1):
        taken += len(document.text)
        if taken > limit:
            both = both[:count]
            break
    cut = len(both) * 7 // 10
    labels = np.array([document.source in GOOD for document in both])
    texts = [document.text for document in both]
    return texts[:cut], texts[cut:], labels[:cut], labels[cut:]


def _luban(megabytes: float, what: str) -> Callable[[], float]:
    training, test, labels, test_labels = _texts(megabytes)
    _fit(training[:10], labels[:10])  # loads the library
    if what == "train":
        return lambda: float(_fit(training, labels).bits)
    model = _fit(training, labels)
    return lambda: auc(np.concatenate([model.score(pack) for pack in packs(test)]), test_labels)


def _fit(texts: Sequence[str], labels: np.ndarray) -> linear.LinearModel:
    features = linear.Features.of(packs(iter(texts)), bits=BITS)
    model, _ = linear.train(features, labels, bits=BITS, epochs=EPOCHS, learning_rate=0.1, seed=0)
    return model


def _sklearn(megabytes: float, what: str) -> Callable[[], float]:
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import SGDClassifier
    from sklearn.pipeline import make_pipeline

    training, test, labels, test_labels = _texts(megabytes)
    words = HashingVectorizer(n_features=1 << BITS, ngram_range=(1, 2), alternate_sign=False)
    settings: dict[str, Any] = {"loss": "log_loss", "max_iter": EPOCHS, "tol": None, "random_state": 0}
    model = make_pipeline(words, SGDClassifier(**settings))
    if what == "train":
        return lambda: float(bool(model.fit(training, labels)))
    model.fit(training, labels)
    return lambda: auc(model.predict_proba(test)[:, 1], test_labels)
