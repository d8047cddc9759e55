"""Words and their ids: numbered in the order they come, so that the same texts give the same model."""

from __future__ import annotations

import ctypes
import weakref
from pathlib import Path
from typing import Protocol

import numpy as np

from luban.native import load, pointer
from luban.ngram.counts import LARGEST

SPECIALS = (b"", b"<unk>", b"<s>", b"</s>")
"""How the ids below `FIRST` are spelled in ARPA files."""


class Texts(Protocol):
    """Texts as UTF-8 in one buffer."""

    @property
    def buffer(self) -> np.ndarray: ...
    @property
    def starts(self) -> np.ndarray: ...
    @property
    def lengths(self) -> np.ndarray: ...


class Vocabulary:
    """Gives each new word the next id; when all ids are given, the other words are unknown."""

    def __init__(self, *, largest: int = LARGEST) -> None:
        self._kernel = _kernel()
        self._own = ctypes.c_void_p(self._kernel.vocabulary_new(ctypes.c_uint32(largest)))
        weakref.finalize(self, self._kernel.vocabulary_free, self._own)

    def encode(self, texts: Texts, *, words: str, normalise: bool) -> np.ndarray:
        """The ids of all words of all texts, with `END` after each line that has any.

        `words` is `luban` (the package's word rule) or `spaces` (what stands between white space);
        `normalise` makes lower case, and each digit 0.
        """
        ids = np.empty(int(texts.lengths.sum()) + len(texts.lengths), np.uint32)
        size = self._kernel.vocabulary_encode(
            self._own,
            pointer(texts.buffer, np.uint8),
            pointer(texts.starts, np.int64),
            pointer(texts.lengths, np.int64),
            ctypes.c_int64(len(texts.starts)),
            words == "spaces",
            normalise,
            pointer(ids, np.uint32),
        )
        return ids[:size].copy()

    def __len__(self) -> int:
        """The number of words, without the specials."""
        return self._kernel.vocabulary_size(self._own)

    def spelling(self) -> tuple[np.ndarray, np.ndarray]:
        """All ids' spellings end to end (uint8), and where each one ends (int64 [ids], from id 0)."""
        letters = np.empty(self._kernel.vocabulary_bytes(self._own), np.uint8)
        ends = np.empty(len(self), np.int64)
        self._kernel.vocabulary_spelling(self._own, pointer(letters, np.uint8), pointer(ends, np.int64))
        special = np.frombuffer(b"".join(SPECIALS), np.uint8)
        special_ends = np.cumsum([len(word) for word in SPECIALS])
        return np.concatenate([special, letters]), np.concatenate([special_ends, ends + len(special)])


def _kernel() -> ctypes.CDLL:
    library = load(Path(__file__).with_name("vocabulary.cpp"))
    library.vocabulary_new.restype = ctypes.c_void_p
    library.vocabulary_size.restype = library.vocabulary_bytes.restype = ctypes.c_int64
    library.vocabulary_encode.restype = ctypes.c_int64
    return library
