"""From answer words to labels: how likely each word is becomes how likely each label is.

A label may have several words, whose probabilities are averaged, so that a label gains nothing by having more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from luban.errors import ConfigError

WordLogps = Float[np.ndarray, "rows words"]
LabelLogps = Float[np.ndarray, "rows labels"]


class Verbaliser:
    """Which words stand for which label."""

    def __init__(self, words: Mapping[str, Sequence[str]]) -> None:
        """Raises ConfigError for fewer than two labels, a label without words, or a word of two labels."""
        check_words(words)
        self.by_label = {label: tuple(of_label) for label, of_label in words.items()}
        self.labels = tuple(words)
        self.words = tuple(word for of_label in words.values() for word in of_label)

    def label_logps(self, logps: WordLogps) -> LabelLogps:
        """Log-probability of each label from those of the words, in the order of `words`."""
        ends = np.cumsum([len(words) for words in self.by_label.values()])[:-1]
        parts = np.split(logps, ends, axis=1)
        means = [np.logaddexp.reduce(part, axis=1) - np.log(part.shape[1]) for part in parts]
        return normalised(np.stack(means, axis=1))


def normalised(logps: Float[np.ndarray, "rows n"]) -> Float[np.ndarray, "rows n"]:
    """The same differences within each row, with probabilities that sum to 1."""
    return logps - np.logaddexp.reduce(logps, axis=1, keepdims=True)


def check_words(words: Mapping[str, Sequence[str]]) -> None:
    """Raise ConfigError where `words` cannot tell labels apart."""
    where = "setting 'words'"
    if len(words) < 2:
        raise ConfigError(f"two labels at least, not {list(words)}", where=where)
    owner: dict[str, str] = {}
    for label, of_label in words.items():
        if not of_label or not all(word.strip() for word in of_label):
            raise ConfigError(f"label '{label}' needs answer words, and none may be empty", where=where)
        for word in of_label:
            if owner.setdefault(word, label) != label or list(of_label).count(word) > 1:
                raise ConfigError(f"'{word}' stands twice: for '{owner[word]}' and '{label}'", where=where)
