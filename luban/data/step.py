"""What one step of the data factory is: documents in, one outcome for each out.

A `Step` judges documents one by one (in batches, so that a kernel sees many at once). A `CorpusStep` needs to
know the whole corpus: it collects a little of every document in parallel, resolves all of it once in bounded
memory, and applies the decisions in parallel. Both are frozen dataclasses of thresholds, so a recipe's YAML sets
them directly, and neither knows of files, processes or resume: the factory does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import c_int64, c_void_p
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from luban.data.document import Document
from luban.data.text.statistics import Statistics, statistics_of
from luban.data.text.words import Words
from luban.native import pointer


@dataclass(frozen=True, slots=True)
class Drop:
    """The document goes: which rule, and the value that broke it."""

    reason: str
    value: float | str | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """The document stays, changed: its new text, what was learnt about it, how often which rule changed it."""

    text: str | None = None
    """None: the text stays as it is."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, int] = field(default_factory=dict)
    id: str | None = None
    """None: it keeps its id."""


Outcome = Drop | Edit | None
"""None: the document stays as it is."""


class Step(Protocol):
    """A rule for single documents."""

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        """One outcome per document, in order. An exception sends documents to quarantine one by one."""
        ...


class CorpusStep(Protocol):
    """A rule that needs all documents, in three moves; arrays and files hold no Python objects."""

    def collect(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """What to remember of these documents, by name (always the same names, dtypes and trailing shapes).

        The batches of a part are joined along axis 0 and saved as one `.npy` per part and name.
        """
        ...

    def resolve(self, parts: Sequence[Mapping[str, Path]], decisions: Sequence[Path], *, memory: int) -> None:
        """From all parts' `.npy` files (open with `mmap_mode="r"`), write one `.npy` of decisions per part.

        Uses at most about `memory` bytes beyond what it maps; may put working files beside `decisions[0]`.
        """
        ...

    def apply(self, batch: Batch, decisions: np.ndarray) -> Sequence[Outcome]:
        """One outcome per document; `decisions` are the whole part's, `batch.first` says where this one stands."""
        ...


@dataclass(frozen=True, slots=True)
class Packed:
    """Texts as UTF-8 in one buffer, for kernels: text i is `buffer[starts[i] : starts[i] + lengths[i]]`."""

    buffer: np.ndarray  # uint8 [bytes]
    starts: np.ndarray  # int64 [documents]
    lengths: np.ndarray  # int64 [documents]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Packed:
        """The texts end to end; a lone surrogate raises UnicodeEncodeError."""
        encoded = [text.encode("utf-8") for text in texts]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        starts = np.cumsum(lengths) - lengths
        return cls(np.frombuffer(b"".join(encoded), np.uint8), starts, lengths)

    @property
    def arguments(self) -> tuple[c_void_p, c_void_p, c_void_p, c_int64]:
        """What every kernel is given first: buffer, starts, lengths, and how many texts."""
        return (
            pointer(self.buffer, np.uint8),
            pointer(self.starts, np.int64),
            pointer(self.lengths, np.int64),
            c_int64(len(self.starts)),
        )

    def take(self, indices: np.ndarray) -> Packed:
        """Some of the texts, without copying any."""
        return Packed(self.buffer, self.starts[indices], self.lengths[indices])


@dataclass(frozen=True)
class Batch:
    """Documents that go through steps together."""

    documents: Sequence[Document]
    first: int = 0
    """The index of the first one within its part."""

    @property
    def texts(self) -> list[str]:
        return [document.text for document in self.documents]

    @cached_property
    def packed(self) -> Packed:
        """The texts for kernels, encoded once per batch."""
        return Packed.of(self.texts)

    @cached_property
    def sizes(self) -> list[int]:
        """Each text's bytes in UTF-8."""
        return self.packed.lengths.tolist()

    @cached_property
    def words(self) -> Words:
        """The texts' words, found once per batch."""
        return Words.of(self.packed)

    @cached_property
    def statistics(self) -> Statistics:
        """What filters set their thresholds on, counted once per batch."""
        return statistics_of(self.packed, self.words)

    def narrowed(self, documents: Sequence[Document], rows: Sequence[int], first: int = 0) -> Batch:
        """A batch of `documents`, whose texts are those at `rows` here: what was counted is not counted again."""
        batch, places = Batch(documents, first), np.asarray(rows, np.int64)
        for name in vars(self).keys() & {"packed", "words", "statistics"}:
            vars(batch)[name] = getattr(self, name).take(places)
        return batch


def drop_where(count: int, rules: Sequence[tuple[str, np.ndarray, np.ndarray | None]]) -> list[Outcome]:
    """One outcome per document from (reason, broken [count] bool, value [count]) rules; the first broken tells."""
    outcomes: list[Outcome] = [None] * count
    for reason, broken, value in rules:
        for index in np.flatnonzero(broken):
            if outcomes[index] is None:
                outcomes[index] = Drop(reason, None if value is None else float(value[index]))
    return outcomes
