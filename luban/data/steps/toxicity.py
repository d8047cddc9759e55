"""`toxicity`: documents with offensive words are dropped or marked, by a list with weights and by their share.

Words of spaced languages match whole, Chinese phrases anywhere. The kernel sees through the usual disguises: digits
for letters (sh1t), signs for letters ($hit), stars (f**k), drawn-out letters (fuuuck), spelling out (f u c k) and a
sign between two ideographs.
Source: C4's bad-words filter (Raffel et al. 2020, arXiv:1910.10683, section 2.2), with weights and shares.
"""

from __future__ import annotations

import ctypes
import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from luban.data.step import Batch, Drop, Edit, Outcome, Packed
from luban.errors import DataError
from luban.native.build import load, pointer

LISTS = Path(__file__).with_name("toxic_words")
HEAVIEST = 3
SHORTEST_MASKED = 4
"""Letters a term needs for stars to hide some of them."""


@dataclass(frozen=True, kw_only=True)
class Toxicity:
    """Judge documents by their offensive words: `toxic_term` for a heavy one, `toxic_share` for many."""

    languages: tuple[Literal["en", "zh"], ...] = ("en", "zh")
    """The built-in lists to use; they are small."""
    lists: tuple[Path, ...] = ()
    """More lists: lines of a term, a tab and its weight 1-3; `term*` allows any ending, `#` begins a comment."""
    mode: Literal["drop", "flag"] = "drop"
    """`drop` the document, or `flag` it: its share and terms go into its meta, whatever they are."""
    worst: int = 2
    """One term heavier than this is too much; 0 drops at any term, as C4 does."""
    max_share: float = 0.01
    """Weighted terms per word above which a document goes."""
    min_terms: int = 2
    """Fewer terms than this are never too large a share."""

    def __call__(self, batch: Batch) -> list[Outcome]:
        """A drop or an edit for every document with offensive words."""
        terms = read_terms(self.languages, self.lists)
        words, hits = terms.count(batch.packed)
        by_text: dict[int, Counter[int]] = {}
        for index, term in hits.tolist():
            by_text.setdefault(index, Counter())[term] += 1
        outcomes: list[Outcome] = [None] * len(batch.documents)
        for index, counts in by_text.items():
            outcomes[index] = self._judge(terms, counts, int(words[index]))
        return outcomes

    def _judge(self, terms: Terms, counts: Counter[int], words: int) -> Outcome:
        share = sum(terms.weights[term] * count for term, count in counts.items()) / max(words, 1)
        if self.mode == "flag":
            named = {terms.names[term]: count for term, count in sorted(counts.items())}
            return Edit(meta={"toxicity": round(share, 6), "toxic_terms": named})
        heaviest = max(counts, key=lambda term: (terms.weights[term], -term))
        if terms.weights[heaviest] > self.worst:
            return Drop("toxic_term", terms.names[heaviest])
        if counts.total() >= self.min_terms and share > self.max_share:
            return Drop("toxic_share", share)
        return None


@dataclass(frozen=True)
class Terms:
    """A list ready for the kernel: `keys` and `children` are a hash table from (node, character) to node."""

    names: tuple[str, ...]
    weights: tuple[int, ...]
    keys: np.ndarray  # int64 [slots]
    children: np.ndarray  # int32 [slots]
    ends: np.ndarray  # int32 [nodes]
    open: np.ndarray  # uint8 [terms]

    def count(self, packed: Packed) -> tuple[np.ndarray, np.ndarray]:
        """How many words each text has [texts], and rows of (text, term), one for each term met."""
        scan = load(Path(__file__).with_name("toxicity.cpp")).offences
        scan.restype = ctypes.c_int64
        count = len(packed.starts)
        words = np.empty(count, np.int64)
        capacity = max(1024, len(packed.buffer) // 256)
        while True:
            hits = np.empty((capacity, 2), np.int64)
            found = scan(
                *packed.arguments,
                pointer(self.keys, np.int64),
                pointer(self.children, np.int32),
                ctypes.c_int64(len(self.keys)),
                pointer(self.ends, np.int32),
                pointer(self.open, np.uint8),
                pointer(words, np.int64),
                ctypes.c_int64(capacity),
                pointer(hits, np.int64),
            )
            if found <= capacity:
                return words, hits[:found]
            capacity = found


@functools.cache
def read_terms(languages: tuple[str, ...], lists: tuple[Path, ...]) -> Terms:
    """The terms of the built-in and the given lists; of one that stands twice the last weight counts.

    Raises DataError naming file and line for a weight that is none, or a list without terms.
    """
    weights: dict[str, int] = {}
    for path in (*(LISTS / f"{language}.txt" for language in languages), *lists):
        weights |= _read_list(Path(path))
    names = tuple(name.removesuffix("*") for name in weights)
    nodes: dict[tuple[int, str], int] = {}
    ends = [-1]
    for index, name in enumerate(names):
        for form in (name, *_masked(name)):
            _insert(form, index, nodes, ends)
    keys, children = _hash_table(nodes)
    is_open = np.array([name.endswith("*") for name in weights], np.uint8)
    return Terms(names, tuple(weights.values()), keys, children, np.array(ends, np.int32), is_open)


def _read_list(path: Path) -> dict[str, int]:
    if not path.is_file():
        raise DataError("no such word list", where=path)
    weights = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        term, _, weight = line.partition("#")[0].strip().lower().partition("\t")
        if not term:
            continue
        if weight.strip() not in [str(choice) for choice in range(1, HEAVIEST + 1)]:
            raise DataError(
                f"'{term}' has the weight {weight.strip()!r}",
                where=f"{path}:{number}",
                hint=f"term, tab, a weight from 1 to {HEAVIEST}",
            )
        weights[term] = int(weight)
    if not weights:
        raise DataError("a word list without a term", where=path)
    return weights


def _masked(name: str) -> list[str]:
    """The term with some inner letters hidden by stars: f*ck, f**k."""
    if len(name) < SHORTEST_MASKED or not name.isascii() or not name.isalpha():
        return []
    last = len(name) - 1
    spans = [(start, end) for start in range(1, last) for end in range(start + 1, last + 1)]
    return [name[:start] + "*" * (end - start) + name[end:] for start, end in spans]


def _insert(form: str, index: int, nodes: dict[tuple[int, str], int], ends: list[int]) -> None:
    node = 0
    for sign in form:
        if (node, sign) not in nodes:
            nodes[node, sign] = len(ends)
            ends.append(-1)
        node = nodes[node, sign]
    if ends[node] < 0:
        ends[node] = index


def _hash_table(nodes: dict[tuple[int, str], int]) -> tuple[np.ndarray, np.ndarray]:
    """Open addressing, a quarter full, with the kernel's own hash."""
    slots = 1 << (4 * len(nodes)).bit_length()
    keys, children = np.full(slots, -1, np.int64), np.zeros(slots, np.int32)
    for (node, sign), child in nodes.items():
        key = (node << 21) | ord(sign)
        product = key * 0x9E3779B97F4A7C15
        at = (product ^ (product >> 64)) & (slots - 1)
        while keys[at] >= 0:
            at = (at + 1) & (slots - 1)
        keys[at], children[at] = key, child
    return keys, children
