"""A back-off model ready to score: one table on disk, mapped by every process that uses it.

The folder holds `model.json` (order, how text becomes words) and `table.npy` (a hash table from 64-bit keys to
log10 probability and back-off weight; 16 bytes an n-gram at load 0.7). No words: their keys are enough.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from luban.errors import DataError
from luban.folder import read_json, write_json
from luban.native import load, pointer
from luban.ngram.arpa import ArpaOrder, read_arpa
from luban.ngram.kneser_ney import Grams
from luban.ngram.vocabulary import Texts

ENTRY = np.dtype([("key", "<u8"), ("logp", "<f4"), ("backoff", "<f4")])
ENTRIES_PER_LINE = 4
LOAD, FULL = 0.7, 0.9
SPARE_LINES = 512
"""So that a tiny table has the room that `insert` asks for a block."""
PROBE = "The 7 Wörter, 鲁班's house."
"""A text whose score tells whether this version still makes the same words and keys of a text."""
Words = Literal["luban", "spaces"]


@dataclass(frozen=True)
class Scores:
    """What a model says of texts."""

    logp: np.ndarray  # float64 [texts]: sum of log10 probabilities
    words: np.ndarray  # int64 [texts]: words and sentence ends
    unknown: np.ndarray  # int64 [texts]: words outside the vocabulary

    @property
    def perplexity(self) -> np.ndarray:
        """10 to the mean of -log10 p; NaN for a text without words."""
        with np.errstate(invalid="ignore", over="ignore"):
            return 10.0 ** (-self.logp / np.where(self.words > 0, self.words, np.nan))


@dataclass(frozen=True, kw_only=True)
class NgramModel:
    """Scores texts. Open a folder with `open_model`."""

    table: np.ndarray
    order: int
    words: Words = "luban"
    """What a word is: the package's rule, or what stands between white space."""
    normalise: bool = True
    """Lower case, and digits as 0, before words are looked up."""

    def score(self, texts: Texts) -> Scores:
        """Each line of a text is a sentence; its words and its end are scored."""
        scores = _empty(len(texts.starts))
        _kernel().score_texts(
            *self._place(),
            pointer(texts.buffer, np.uint8),
            pointer(texts.starts, np.int64),
            pointer(texts.lengths, np.int64),
            ctypes.c_int64(len(texts.starts)),
            self.words == "spaces",
            self.normalise,
            *_outputs(scores),
        )
        return scores

    def knows(self, word: bytes) -> bool:
        """Whether the word, as an ARPA file spells it, has a probability of its own."""
        letters = np.frombuffer(word, np.uint8)
        key = spelled_keys(letters, np.zeros(1, np.int64), np.array([len(word)], np.int64))
        return bool((self.table["key"] == key).any())

    def save(self, folder: Path) -> None:
        """Write `table.npy` and `model.json`."""
        np.save(folder / "table.npy", self.table)
        settings = {"order": self.order, "words": self.words, "normalise": self.normalise}
        write_json(folder / "model.json", {**settings, "probe": _probe(self)})

    def _place(self) -> tuple[ctypes.c_void_p, ctypes.c_uint64, int]:
        return pointer(self.table, ENTRY), ctypes.c_uint64(len(self.table) // ENTRIES_PER_LINE), self.order


def open_model(folder: Path) -> NgramModel:
    """The model in `folder`, mapped; opened once per process.

    Raises DataError if there is none, or if it was made with another word rule than this version's.
    """
    settings = folder / "model.json"
    return _opened(folder, settings.stat().st_mtime_ns if settings.is_file() else 0)


@functools.lru_cache(maxsize=64)
def _opened(folder: Path, changed: int) -> NgramModel:  # noqa: ARG001 - tells versions of the folder apart
    settings = read_json(folder / "model.json")
    try:
        table = np.load(folder / "table.npy", mmap_mode="r")
        model = NgramModel(
            table=table, order=settings["order"], words=settings["words"], normalise=settings["normalise"]
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"not a whole n-gram model: {error}", where=folder) from None
    if table.dtype != ENTRY or len(table) % ENTRIES_PER_LINE or not len(table):
        raise DataError("table.npy is not an n-gram table", where=folder)
    if settings.get("probe") != _probe(model):
        raise DataError(
            "this version makes other words of a text", where=folder, hint="train the model again"
        )
    return model


def build(
    grams: Sequence[Grams],
    letters: np.ndarray,
    ends: np.ndarray,
    *,
    words: Words = "luban",
    normalise: bool = True,
) -> NgramModel:
    """The table of a model over words; `letters` and `ends` are `Vocabulary.spelling`'s."""
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    table = _table_of(grams, spelled_keys(letters, starts, ends - starts))
    return NgramModel(table=table, order=len(grams), words=words, normalise=normalise)


def from_arpa(
    path: Path, *, words: Words = "spaces", normalise: bool = False
) -> tuple[NgramModel, list[int]]:
    """The model in an ARPA file (or `.arpa.gz`), and its n-grams per order.

    Raises DataError naming the line that is wrong, or for a model without <unk>.
    """
    buffer, orders = read_arpa(path)
    size = sum(len(order.logp) for order in orders)
    table, twice = _arpa_table(buffer, orders, size)
    while twice < 0:  # many n-grams whose suffixes the file leaves out
        size *= 2
        table, twice = _arpa_table(buffer, orders, size)
    if twice:
        raise DataError(f"{twice:,} n-grams stand there more than once", where=path)
    model = NgramModel(table=table, order=len(orders), words=words, normalise=normalise)
    if not model.knows(b"<unk>"):
        raise DataError("the model has no <unk>, so no probability for other words", where=path)
    return model, [len(order.logp) for order in orders]


def spelled_keys(letters: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The key of each word that stands in `letters` (uint8); `<s>`, `</s>` and `<unk>` have their own."""
    keys = np.empty(len(starts), np.uint64)
    _kernel().spelled_keys(
        pointer(letters, np.uint8),
        pointer(starts, np.int64),
        pointer(lengths, np.int64),
        ctypes.c_int64(len(starts)),
        pointer(keys, np.uint64),
    )
    return keys


def _probe(model: NgramModel) -> str:
    """What this version makes of `PROBE`, as one number."""
    text = np.frombuffer(PROBE.encode(), np.uint8)
    keys = np.empty(2 * len(text), np.uint64)
    size = _kernel().text_keys(
        pointer(text, np.uint8),
        ctypes.c_int64(len(text)),
        model.words == "spaces",
        model.normalise,
        pointer(keys, np.uint64),
    )
    return hashlib.sha256(keys[:size].tobytes()).hexdigest()[:16]


def _table_of(grams: Sequence[Grams], keys: np.ndarray) -> np.ndarray:
    """The n-grams of ids as a table; `keys` gives each id's key (uint64 [ids], from id 0)."""
    table = _new_table(sum(len(order.logp) for order in grams))
    room = _room(table)
    for n, order in enumerate(grams, 1):
        twice = _insert(table, keys, order.ids, n, order.logp, order.backoff, room)
        assert twice == 0, f"{twice} {n}-grams in one place"
    return table


def _arpa_table(buffer: np.ndarray, orders: Sequence[ArpaOrder], size: int) -> tuple[np.ndarray, int]:
    """A table for `size` n-grams and how many of the file's stand there twice; negative: it is too small."""
    table, twice = _new_table(size), 0
    room = _room(table)
    for n, order in enumerate(orders, 1):
        keys = spelled_keys(buffer, order.starts, order.lengths)
        ids = np.arange(len(keys), dtype=np.uint32).reshape(-1, n)
        again = _insert(table, keys, ids, n, order.logp, order.backoff, room)
        if again < 0:
            return table, again
        twice += again
    return table, twice


def _new_table(entries: int) -> np.ndarray:
    lines = int(entries / LOAD / ENTRIES_PER_LINE) + SPARE_LINES
    return np.zeros(lines * ENTRIES_PER_LINE, ENTRY)


def _room(table: np.ndarray) -> ctypes.c_int64:
    """How many entries the table may take before looking up becomes slow."""
    return ctypes.c_int64(int(len(table) * FULL))


def _insert(
    table: np.ndarray,
    keys: np.ndarray,
    ids: np.ndarray,
    n: int,
    logp: np.ndarray,
    backoff: np.ndarray,
    room: ctypes.c_int64,
) -> int:
    return _kernel().insert(
        pointer(table, ENTRY),
        ctypes.c_uint64(len(table) // ENTRIES_PER_LINE),
        pointer(keys, np.uint64),
        pointer(ids, np.uint32),
        n,
        ctypes.c_int64(len(ids)),
        pointer(logp, np.float32),
        pointer(backoff, np.float32),
        ctypes.byref(room),
    )


def _empty(count: int) -> Scores:
    return Scores(np.empty(count), np.empty(count, np.int64), np.empty(count, np.int64))


def _outputs(scores: Scores) -> tuple[ctypes.c_void_p, ...]:
    return (
        pointer(scores.logp, np.float64),
        pointer(scores.words, np.int64),
        pointer(scores.unknown, np.int64),
    )


def _kernel() -> ctypes.CDLL:
    library = load(Path(__file__).with_name("model.cpp"))
    library.insert.restype = library.text_keys.restype = ctypes.c_int64
    return library
