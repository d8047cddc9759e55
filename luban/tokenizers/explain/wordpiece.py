"""WordPiece in the open: merges by score instead of count, and words cut by the longest match.

Source: Schuster and Nakajima 2012 merge what raises the likelihood of the text most; the score that is used for
it, freq(ab) / (freq(a) freq(b)), is that of the Hugging Face course (Google published no trainer). Cutting: Wu et
al. 2016 (arXiv:1609.08144), BERT's greedy longest match. The trainer in `tokenizers` merges by count, as BPE.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from luban.tokenizers.explain.bpe import Pair, count_pairs

INSIDE = "##"
"""Before a piece that does not begin a word."""
UNKNOWN = "[UNK]"


@dataclass(frozen=True)
class Merge:
    """One step of learning."""

    pair: Pair
    count: int
    parts: tuple[int, int]
    """Times the two parts stood in the words."""
    ties: tuple[Pair, ...]
    """Other pairs of the same score, first seen later."""

    @property
    def score(self) -> float:
        return self.count / (self.parts[0] * self.parts[1])

    @property
    def made(self) -> str:
        return made_of(self.pair)


@dataclass(frozen=True)
class Match:
    """One step of cutting: candidates from long to short, the last of which is in the vocabulary, if any is."""

    tried: tuple[str, ...]
    found: bool


def learn(words: Mapping[str, int], pieces: int) -> tuple[list[str], list[Merge]]:
    """The single characters, and up to `pieces` merges of the pair with the highest score; first seen wins a tie."""
    split = {word: symbols(word) for word in words}
    characters = list(dict.fromkeys(part for parts in split.values() for part in parts))
    merges: list[Merge] = []
    while len(merges) < pieces and (pairs := count_pairs(split, words)):
        alone: Counter[str] = Counter()
        for word, parts in split.items():
            for part in parts:
                alone[part] += words[word]
        scores = {pair: count / (alone[pair[0]] * alone[pair[1]]) for pair, count in pairs.items()}
        highest = max(scores.values())
        best, *ties = [pair for pair, score in scores.items() if score == highest]
        merges.append(Merge(best, pairs[best], (alone[best[0]], alone[best[1]]), tuple(ties)))
        split = {word: _join(parts, best) for word, parts in split.items()}
    return characters, merges


def encode(word: str, vocabulary: Collection[str]) -> tuple[list[str], list[Match]]:
    """The pieces of `word` and how they were found; a word with a part that has no piece is unknown as a whole."""
    pieces: list[str] = []
    matches: list[Match] = []
    start = 0
    while start < len(word):
        prefix = INSIDE if start else ""
        candidates = [prefix + word[start:end] for end in range(len(word), start, -1)]
        found = next((number for number, piece in enumerate(candidates) if piece in vocabulary), None)
        if found is None:
            return [UNKNOWN], [*matches, Match(tuple(candidates), found=False)]
        matches.append(Match(tuple(candidates[: found + 1]), found=True))
        pieces.append(candidates[found])
        start += len(candidates[found]) - len(prefix)
    return pieces, matches


def symbols(word: str) -> tuple[str, ...]:
    """The characters, all but the first marked as inside."""
    return (word[0], *(INSIDE + character for character in word[1:]))


def made_of(pair: Pair) -> str:
    """The piece that a pair becomes."""
    return pair[0] + pair[1].removeprefix(INSIDE)


def _join(parts: Sequence[str], pair: Pair) -> tuple[str, ...]:
    joined: list[str] = []
    place = 0
    while place < len(parts):
        found = tuple(parts[place : place + 2]) == pair
        joined.append(made_of(pair) if found else parts[place])
        place += 2 if found else 1
    return tuple(joined)
