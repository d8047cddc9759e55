"""Byte pair encoding in the open: which pair is merged when, and why.

Source: Sennrich et al. 2016 (arXiv:1508.07909), algorithm 1. Written to be read and printed, not to be fast;
`luban.tokenizers.train` learns real vocabularies.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

END = "</w>"
"""A symbol of its own behind each word, so that `est` at a word's end is another token than inside."""
Pair = tuple[str, str]


@dataclass(frozen=True)
class Merge:
    """One step of learning."""

    pair: Pair
    count: int
    """Times the pair stood in the words."""
    ties: tuple[Pair, ...]
    """Other pairs as frequent, first seen later."""

    @property
    def made(self) -> str:
        return "".join(self.pair)


def learn(words: Mapping[str, int], pieces: int, *, end: str = END) -> list[Merge]:
    """Up to `pieces` merges, each of the most frequent pair; the one seen first wins a tie.

    `words` are counts; no `end` merges characters alone.
    """
    split = {word: symbols(word, end) for word in words}
    merges: list[Merge] = []
    while len(merges) < pieces and (pairs := count_pairs(split, words)):
        most = max(pairs.values())
        best, *ties = [pair for pair, count in pairs.items() if count == most]
        merges.append(Merge(best, most, tuple(ties)))
        split = {word: join(parts, best) for word, parts in split.items()}
    return merges


def encode(
    word: str, merges: Sequence[Merge], *, end: str = END
) -> list[tuple[Merge | None, tuple[str, ...]]]:
    """The word's symbols, then the merges that changed them, in the order they were learnt, and what came out."""
    parts = symbols(word, end)
    steps: list[tuple[Merge | None, tuple[str, ...]]] = [(None, parts)]
    for merge in merges:
        merged = join(parts, merge.pair)
        if merged != parts:
            parts = merged
            steps.append((merge, parts))
    return steps


def symbols(word: str, end: str = END) -> tuple[str, ...]:
    """The characters, and the end."""
    return (*word, end) if end else tuple(word)


def count_pairs(split: Mapping[str, Sequence[str]], words: Mapping[str, int]) -> Counter[Pair]:
    """How often each pair of neighbours stands in the words, in the order they are met."""
    pairs: Counter[Pair] = Counter()
    for word, parts in split.items():
        for left, right in itertools.pairwise(parts):
            pairs[left, right] += words[word]
    return pairs


def join(parts: Sequence[str], pair: Pair) -> tuple[str, ...]:
    """`parts` with each occurrence of `pair`, from the left, made one symbol."""
    joined: list[str] = []
    place = 0
    while place < len(parts):
        found = tuple(parts[place : place + 2]) == pair
        joined.append("".join(pair) if found else parts[place])
        place += 2 if found else 1
    return tuple(joined)
