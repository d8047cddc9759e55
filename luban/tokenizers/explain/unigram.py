"""Unigram in the open: pieces with probabilities, learnt by EM, pruned by what each is worth, used by Viterbi.

A word's probability is the sum over all ways to cut it; a cut's is the product of its pieces'. Source: Kudo 2018
(arXiv:1804.10959), section 3.2. We differ where few words allow or demand it: candidates are all substrings that
occur twice but are not a whole word alone (else each word would be learnt by heart), and a piece's worth is the
exact loss of likelihood without it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

KEPT = 0.75
"""Share of the long pieces that stay in a round, until only as many as asked for are left."""
EM_STEPS = 2
FLOOR = 1e-6
"""What EM has less use for goes; a character keeps this, so that every word of known characters can be cut."""
Model = dict[str, float]
"""Each piece's probability."""


@dataclass(frozen=True)
class Round:
    """EM, then pruning."""

    pieces: int
    """How many there were."""
    log_likelihood: float
    """Of all words after EM, in nats."""
    dropped: tuple[tuple[str, float], ...]
    """What went, with the likelihood lost by it; the cheapest first."""


@dataclass(frozen=True)
class Edge:
    """A piece at its place in a word, and the best way through it to its end."""

    start: int
    piece: str
    logp: float
    score: float
    """The best cut of all before, and this piece: the sum of log probabilities."""
    best: bool
    """Whether nothing better ends at the same place."""

    @property
    def end(self) -> int:
        return self.start + len(self.piece)


def candidates(words: Mapping[str, int]) -> Counter[str]:
    """All characters, and all longer parts of words that occur at least twice, with their counts."""
    found: Counter[str] = Counter()
    for word, count in words.items():
        for part in substrings(word):
            found[part] += count
    inside = {part for word in words for part in substrings(word) if len(part) < len(word)}
    wanted = {part: n for part, n in found.items() if len(part) == 1 or (n > 1 and part in inside)}
    return Counter(wanted)


def substrings(word: str) -> Iterator[str]:
    """All parts of the word that are not empty, as often as they stand in it."""
    places = itertools.combinations(range(len(word) + 1), 2)
    return (word[start:end] for start, end in places)


def learn(words: Mapping[str, int], pieces: int) -> tuple[Model, list[Round]]:
    """Probabilities of all characters and of the `pieces` longer pieces that are worth most, round by round."""
    found = candidates(words)
    floor = {piece: FLOOR for piece in found if len(piece) == 1}
    model = normalised(found)
    rounds: list[Round] = []
    while True:
        for _ in range(EM_STEPS):
            model = em_step(model, words)
        long = [piece for piece in model if len(piece) > 1]
        keep = max(pieces, int(len(long) * KEPT)) if len(long) > pieces else len(long)
        losses = sorted(((loss(piece, model, words), piece) for piece in long), key=lambda pair: pair[0])
        dropped = tuple((piece, lost) for lost, piece in losses[: len(long) - keep])
        rounds.append(Round(len(model), log_likelihood(model, words), dropped))
        if not dropped:
            used = {piece: p for piece, p in model.items() if p > FLOOR}
            return floor | used, rounds
        gone = {piece for piece, _ in dropped}
        kept = {piece: p for piece, p in model.items() if piece not in gone}
        model = normalised({**kept, **{piece: max(p, kept.get(piece, 0.0)) for piece, p in floor.items()}})


def em_step(model: Model, words: Mapping[str, int]) -> Model:
    """The model that makes the expected counts of pieces under `model` most likely; never worse than `model`."""
    counts: Counter[str] = Counter()
    for word, times in words.items():
        ahead, behind = forward(word, model), backward(word, model)
        for start, piece in places(word, model):
            share = ahead[start] * model[piece] * behind[start + len(piece)] / ahead[-1]
            counts[piece] += times * share  # pyright: ignore[reportArgumentType] - a Counter adds up floats as well
    return normalised({piece: count for piece, count in counts.items() if count > 0})


def forward(word: str, model: Model) -> list[float]:
    """Place i: the probability of the first i characters, summed over their cuts."""
    sums = [1.0] + [0.0] * len(word)
    for start, piece in places(word, model):
        sums[start + len(piece)] += sums[start] * model[piece]
    return sums


def backward(word: str, model: Model) -> list[float]:
    """Place i: the probability of what follows the first i characters."""
    sums = [0.0] * len(word) + [1.0]
    for start, piece in reversed(list(places(word, model))):
        sums[start] += model[piece] * sums[start + len(piece)]
    return sums


def log_likelihood(model: Model, words: Mapping[str, int]) -> float:
    """Of all words, in nats; minus infinity if one cannot be cut."""
    each = ((count, forward(word, model)[-1]) for word, count in words.items())
    return sum(count * math.log(p) if p else -math.inf for count, p in each)


def loss(piece: str, model: Model, words: Mapping[str, int]) -> float:
    """The likelihood that the words lose without `piece`, in nats."""
    rest = {other: p for other, p in model.items() if other != piece}
    return log_likelihood(model, words) - log_likelihood(rest, words)


def viterbi(word: str, model: Model) -> tuple[list[str] | None, list[Edge]]:
    """The most probable cut (None: there is none), and the lattice of all pieces by where they end."""
    best: list[float] = [0.0] + [-math.inf] * len(word)
    last: list[str] = [""] * (len(word) + 1)
    met: list[tuple[int, str, float]] = []
    for start, piece in places(word, model):
        score = best[start] + math.log(model[piece])
        end = start + len(piece)
        met.append((start, piece, score))
        if score > best[end]:
            best[end], last[end] = score, piece
    edges = [
        Edge(start, piece, math.log(model[piece]), score, best=last[start + len(piece)] == piece)
        for start, piece, score in met
    ]
    lattice = sorted(edges, key=lambda edge: (edge.end, edge.start))
    if best[-1] == -math.inf:
        return None, lattice
    cut: list[str] = []
    end = len(word)
    while end:
        cut.append(last[end])
        end -= len(last[end])
    return cut[::-1], lattice


def places(word: str, model: Model) -> Iterator[tuple[int, str]]:
    """Each piece of the model at each place it stands in the word, from left to right."""
    for start in range(len(word)):
        for end in range(start + 1, len(word) + 1):
            if word[start:end] in model:
                yield start, word[start:end]


def normalised(counts: Mapping[str, float]) -> Model:
    """Counts as probabilities."""
    total = sum(counts.values())
    return {piece: count / total for piece, count in counts.items()}
