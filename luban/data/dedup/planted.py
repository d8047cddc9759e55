"""A corpus with known duplicates, made of real documents: what recall and precision are measured on."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from luban.data.dedup.shingles import shingles
from luban.data.document import Document
from luban.data.step import Packed

LEVELS = (0.97, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.35)
"""Jaccard similarities that word edits aim at."""
EDGES = (0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Similarities are told in bins between these; the last one holds 1 too."""
HEADER = "Home | Contents | Index | Search | Page {} of our mirror, last changed on day {}"
FOOTER = "Printed from copy {}; send corrections to the {} maintainers. Back to the top of the page"


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A copy among the documents: which one (by index) of which other, and how alike they truly are."""

    original: int
    copy: int
    kind: Literal["exact", "edited", "framed"]
    jaccard: float
    """Of the sets of shingles."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Planted pairs of about the same similarity, and the share of them that was found."""

    low: float
    high: float
    pairs: int
    mean: float
    """Mean similarity of the pairs."""
    recall: float


def plant(
    texts: Sequence[str], *, share: float = 0.3, ngram: int = 5, seed: int = 0
) -> tuple[list[Document], list[Planted]]:
    """The texts and copies of a `share` of them, shuffled, with the list of copies.

    Of ten copies three are exact, six have words replaced until one of `LEVELS` is about reached, and one has a
    header and a footer around it. No text is copied twice.
    """
    chance = random.Random(seed)
    words = [word for text in texts[:1000] for word in text.split()]
    made: list[tuple[int, str, str]] = []
    for source in chance.sample(range(len(texts)), int(share * len(texts))):
        kind = ("exact", "exact", "exact", *["edited"] * 6, "framed")[len(made) % 10]
        made.append((source, kind, _copy(texts[source], kind, words, ngram, chance)))
    everything = [*texts, *(text for _, _, text in made)]
    order = chance.sample(range(len(everything)), len(everything))
    place = {old: new for new, old in enumerate(order)}
    documents = [Document(id=f"planted-{old}", text=everything[old], source="planted") for old in order]
    pairs = [(place[source], place[len(texts) + number]) for number, (source, _, _) in enumerate(made)]
    truth = similarities([document.text for document in documents], pairs, ngram=ngram)
    return documents, [
        Planted(original=pair[0], copy=pair[1], kind=kind, jaccard=jaccard)  # pyright: ignore[reportArgumentType] - it is one
        for pair, (_, kind, _), jaccard in zip(pairs, made, truth, strict=True)
    ]


def similarities(texts: Sequence[str], pairs: Sequence[tuple[int, int]], *, ngram: int) -> list[float]:
    """The Jaccard similarity of each pair of texts' sets of shingles; 0 for texts without words."""
    items, counts = shingles(Packed.of(texts), ngram)
    ends = np.cumsum(counts)
    found = []
    for left, right in pairs:
        one, other = (np.unique(items[ends[i] - counts[i] : ends[i]]) for i in (left, right))
        shared = len(np.intersect1d(one, other, assume_unique=True))
        found.append(shared / max(1, len(one) + len(other) - shared))
    return found


def group_numbers(decisions: Sequence[np.ndarray]) -> np.ndarray:
    """From the parts' decisions (part, index) to one number per document: equal within a group; int64."""
    starts = np.cumsum([0, *map(len, decisions)])
    own = np.arange(starts[-1])
    rows = np.concatenate(decisions)
    return np.where(rows[:, 0] < 0, own, starts[rows[:, 0]] + rows[:, 1])


def recall(planted: Sequence[Planted], groups: np.ndarray) -> list[Bin]:
    """The share of planted pairs whose documents fell into one group, by true similarity; empty bins left out."""
    jaccards = np.array([pair.jaccard for pair in planted])
    together = np.array([groups[pair.original] == groups[pair.copy] for pair in planted])
    bins = []
    for low, high in pairwise(EDGES):
        inside = (jaccards >= low) & ((jaccards < high) | (high == EDGES[-1]))
        if inside.any():
            mean, share = jaccards[inside].mean(), together[inside].mean()
            bins.append(
                Bin(low=low, high=high, pairs=int(inside.sum()), mean=float(mean), recall=float(share))
            )
    return bins


def precision(texts: Sequence[str], groups: np.ndarray, *, threshold: float, ngram: int) -> float:
    """The share of dropped documents that are truly as alike as `threshold` to another one of their group."""
    dropped = right = 0
    for members in _groups(groups):
        chosen = [texts[i] for i in members]
        size = range(len(members))
        pairs = [(i, j) for i in size for j in size if i < j]
        alike = np.zeros((len(members), len(members)), bool)
        for (i, j), jaccard in zip(pairs, similarities(chosen, pairs, ngram=ngram), strict=True):
            alike[i, j] = alike[j, i] = jaccard >= threshold
        gone = [position for position, i in enumerate(members) if groups[i] != i]
        dropped += len(gone)
        right += int(alike[gone].any(axis=1).sum())
    return right / max(1, dropped)


def _groups(numbers: np.ndarray) -> Iterator[list[int]]:
    members: dict[int, list[int]] = defaultdict(list)
    for i in np.flatnonzero(np.bincount(numbers, minlength=len(numbers))[numbers] > 1).tolist():
        members[int(numbers[i])].append(i)
    yield from members.values()


def _copy(text: str, kind: str, words: Sequence[str], ngram: int, chance: random.Random) -> str:
    if kind == "edited":
        return _edited(text, chance.choice(LEVELS), words, ngram, chance)
    if kind == "framed":
        number = chance.randrange(1000)
        return "\n".join(
            [HEADER.format(number, number // 7), text, FOOTER.format(number, chance.choice(words))]
        )
    return text


def _edited(text: str, jaccard: float, words: Sequence[str], ngram: int, chance: random.Random) -> str:
    """Replace words at random places until so many shingles have changed that the similarity is about reached.

    k of L shingles changed on both sides leave L - k of L + k, so k = L (1 - J) / (1 + J).
    """
    own = text.split(" ")
    wanted = (len(own) - ngram + 1) * (1 - jaccard) / (1 + jaccard)
    changed: set[int] = set()
    for place in chance.sample(range(len(own)), len(own)):
        if len(changed) >= wanted:
            break
        own[place] = chance.choice(words)
        changed.update(range(place - ngram + 1, place + 1))
    return " ".join(own)
