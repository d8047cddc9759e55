"""Modified Kneser-Ney and back-off scoring in plain Python over tuples: slow, and as the definition says."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

Gram = tuple[str, ...]
START, END, UNKNOWN = "<s>", "</s>", "<unk>"


def adjusted_counts(
    sentences: Sequence[Sequence[str]], order: int
) -> tuple[list[Counter[Gram]], list[Counter[Gram]]]:
    """Occurrences, and adjusted counts, of the n-grams of each order from 1."""
    seen = [Counter[Gram]() for _ in range(order)]
    for sentence in sentences:
        words = (START, *sentence, END)
        for end in range(2, len(words) + 1):
            for n in range(1, min(order, end) + 1):
                seen[n - 1][words[end - n : end]] += 1
    adjusted = [Counter(counts) for counts in seen]
    for n in range(order - 1):
        before = Counter(gram[1:] for gram in seen[n + 1])
        for gram in seen[n]:
            if gram[0] != START:
                adjusted[n][gram] = before[gram]
    return seen, adjusted


class PlainModel:
    """log10 probabilities and back-off weights by n-gram."""

    def __init__(
        self, sentences: Sequence[Sequence[str]], order: int, limits: Sequence[int], discounts: list
    ) -> None:
        seen, adjusted = adjusted_counts(sentences, order)
        words = {gram[0] for gram in seen[0]} | {UNKNOWN}
        self.order = order
        self.p: dict[Gram, float] = {}
        self.backoff: dict[Gram, float] = defaultdict(lambda: 1.0)
        probability: dict[Gram, float] = {(): 1 / len(words)}
        for n in range(1, order + 1):
            counts = adjusted[n - 1] if n > 1 else Counter({(w,): adjusted[0][(w,)] for w in words})
            total: Counter[Gram] = Counter()
            freed: defaultdict[Gram, float] = defaultdict(float)
            for gram, count in counts.items():
                kept = n == 1 or seen[n - 1][gram] > limits[n - 1]
                total[gram[:-1]] += count
                freed[gram[:-1]] += taken(count, discounts[n - 1]) if kept else count
            for gram, count in counts.items():
                own = (count - taken(count, discounts[n - 1])) / total[gram[:-1]]
                share = freed[gram[:-1]] / total[gram[:-1]]
                probability[gram] = own + share * probability[gram[1:]]
                if n > 1:
                    self.backoff[gram[:-1]] = share
                if n == 1 or seen[n - 1][gram] > limits[n - 1]:
                    self.p[gram] = probability[gram]

    def word(self, history: Gram, word: str) -> float:
        """log10 p(word | history), by backing off."""
        history = history[max(0, len(history) - self.order + 1) :]
        if (*history, word) in self.p:
            return math.log10(self.p[(*history, word)])
        if not history:
            return math.log10(self.p[(UNKNOWN,)])
        return math.log10(self.backoff[history]) + self.word(history[1:], word)

    def sentence(self, words: Sequence[str]) -> float:
        """log10 of the sentence and its end; words outside the vocabulary are unknown."""
        known = [word if (word,) in self.p else UNKNOWN for word in words]
        line = (START, *known, END)
        return sum(self.word(line[:at], line[at]) for at in range(1, len(line)))


def taken(count: int, discount: Sequence[float]) -> float:
    return (0, *discount)[min(count, 3)]
