"""How documents fill rows of fixed length, planned from their lengths alone.

A row is a list of segments; reading the tokens is the loader's business. Each layout keeps the same promise:
in an epoch every token but a document's first is the target of the token before it exactly once (`Windows`:
with `stride` equal to the row; `Padded` and `Whole`: as far as a document fits).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from luban.data.mix import Mixer

SHUFFLED_ROWS = 2048
"""Rows that `Shuffled` plans and shuffles at a time, at most: some megabytes of plan."""
LOOKAHEAD = 64
"""Documents that `Whole` chooses from: enough to leave few gaps, little enough to stay close to the order."""


class Segment(NamedTuple):
    """The tokens `start:stop` of a document, which stand side by side in a row."""

    source: int
    document: int
    start: int
    stop: int


class Layout(Protocol):
    """Plans one row after another; `state` is JSON-able and `restore` goes on from it exactly."""

    def next_row(self) -> list[Segment]:
        """The segments of the next row; none at the end of the last epoch."""
        ...

    def seen(self, source: int) -> float:
        """Epochs of `source` in the rows so far, the unfinished one as a fraction."""
        ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...

    @property
    def truncated(self) -> tuple[int, int]:
        """Documents cut because they are longer than a row, and the targets lost by it."""
        ...


class Documents:
    """The documents of all sources in the order of the mix; those without any target are left out.

    `longest` is how much of a document a row can take; the rest is cut and counted. The token after the last
    one taken is still known as its target, so a document of `longest + 1` tokens loses nothing.
    """

    def __init__(
        self,
        lengths: Sequence[np.ndarray],
        kept: Sequence[np.ndarray],
        weights: Sequence[float],
        *,
        seed: int,
        epochs: int | None,
        longest: int | None = None,
    ) -> None:
        self._lengths, self._kept, self._longest = lengths, kept, longest
        sizes = [of[numbers] for of, numbers in zip(lengths, kept, strict=True)]
        if longest is not None:
            sizes = [np.minimum(size, longest) for size in sizes]
        self.mixer = Mixer(sizes, weights, seed=seed, epochs=epochs)
        self.truncated = (0, 0)

    def draw(self) -> Segment | None:
        """The next document, as far as a row can take it."""
        drawn = self.mixer.draw()
        if drawn is None:
            return None
        source, unit = drawn
        document = int(self._kept[source][unit])
        length = int(self._lengths[source][document])
        if self._longest is None or length <= self._longest:
            return Segment(source, document, 0, length)
        if length > self._longest + 1:
            cut, lost = self.truncated
            self.truncated = (cut + 1, lost + length - 1 - self._longest)
        return Segment(source, document, 0, self._longest)

    def state(self) -> dict[str, Any]:
        return {"mix": self.mixer.state(), "truncated": list(self.truncated)}

    def restore(self, state: dict[str, Any]) -> None:
        self.mixer.restore(state["mix"])
        cut, lost = state["truncated"]
        self.truncated = (cut, lost)


class Packed:
    """Documents end to end; one that meets the row's end goes on in the next row."""

    def __init__(self, documents: Documents, *, context: int) -> None:
        self._documents, self._context = documents, context
        self.seen = documents.mixer.seen
        self._rest: Segment | None = None

    def next_row(self) -> list[Segment]:
        row: list[Segment] = []
        space = self._context
        while space:
            segment = self._rest or self._documents.draw()
            if segment is None:
                break
            end = min(segment.start + space, segment.stop)
            row.append(segment._replace(stop=end))
            space -= end - segment.start
            # A document's last token has no target: alone at a row's start it would teach nothing.
            self._rest = segment._replace(start=end) if segment.stop - end > 1 else None
        return row

    @property
    def truncated(self) -> tuple[int, int]:
        return self._documents.truncated

    def state(self) -> dict[str, Any]:
        return {**self._documents.state(), "rest": list(self._rest) if self._rest else None}

    def restore(self, state: dict[str, Any]) -> None:
        self._documents.restore(state)
        self._rest = Segment(*state["rest"]) if state["rest"] else None


class Shuffled:
    """Another layout's rows, shuffled among `rows` at a time: the pieces of a long document get apart.

    Only the place in such a block is kept in the state; the block is planned again from where it began.
    """

    def __init__(self, layout: Layout, *, rows: int, sources: int, seed: int) -> None:
        self._layout, self._rows, self._sources, self._seed = layout, rows, range(sources), seed
        self._number = -1
        self._begun = layout.state()
        self._seen_before = [0.0] * sources
        self._block: list[list[Segment]] = []
        self._place = 0

    def next_row(self) -> list[Segment]:
        if self._place == len(self._block):
            self._plan(self._number + 1)
        if not self._block:
            return []
        self._place += 1
        return self._block[self._place - 1]

    def seen(self, source: int) -> float:
        """See `Layout.seen`; inside a block its rows count as alike."""
        before, after = self._seen_before[source], self._layout.seen(source)
        return before + (after - before) * (self._place / len(self._block) if self._block else 1.0)

    @property
    def truncated(self) -> tuple[int, int]:
        return self._layout.truncated

    def state(self) -> dict[str, Any]:
        return {"block": self._number, "place": self._place, "begun": self._begun}

    def restore(self, state: dict[str, Any]) -> None:
        self._layout.restore(state["begun"])
        self._block = []
        if state["block"] >= 0:
            self._plan(state["block"])
        self._number, self._place = state["block"], state["place"]

    def _plan(self, number: int) -> None:
        self._begun = self._layout.state()
        self._seen_before = [self._layout.seen(source) for source in self._sources]
        rows = list(itertools.takewhile(bool, (self._layout.next_row() for _ in range(self._rows))))
        order = np.random.default_rng([self._seed, number]).permutation(len(rows))
        self._block = [rows[place] for place in order]
        self._number, self._place = number, 0


class Whole:
    """Whole documents, first fit from a small look-ahead; the oldest always fits, so none waits long."""

    def __init__(self, documents: Documents, *, context: int, lookahead: int = LOOKAHEAD) -> None:
        self._documents, self._context, self._lookahead = documents, context, lookahead
        self.seen = documents.mixer.seen
        self._waiting: list[Segment] = []

    def next_row(self) -> list[Segment]:
        self._refill()
        row: list[Segment] = []
        left: list[Segment] = []
        space = self._context
        for segment in self._waiting:
            if segment.stop <= space:
                row.append(segment)
                space -= segment.stop
            else:
                left.append(segment)
        self._waiting = left
        return row

    @property
    def truncated(self) -> tuple[int, int]:
        return self._documents.truncated

    def state(self) -> dict[str, Any]:
        return {**self._documents.state(), "waiting": [list(segment) for segment in self._waiting]}

    def restore(self, state: dict[str, Any]) -> None:
        self._documents.restore(state)
        self._waiting = [Segment(*numbers) for numbers in state["waiting"]]

    def _refill(self) -> None:
        while len(self._waiting) < self._lookahead:
            segment = self._documents.draw()
            if segment is None:
                return
            self._waiting.append(segment)


def padded(documents: Documents, *, context: int) -> Whole:
    """One document per row, the rest of the row padding: a look-ahead of one can only place that one."""
    return Whole(documents, context=context, lookahead=1)


class Windows:
    """A window of the row's length slides by `stride` over each source's documents, laid end to end.

    Windows come in shuffled order; a stride shorter than the row repeats tokens in overlapping windows.
    """

    truncated = (0, 0)

    def __init__(
        self,
        lengths: Sequence[np.ndarray],
        weights: Sequence[float],
        *,
        context: int,
        stride: int,
        seed: int,
        epochs: int | None,
    ) -> None:
        self._context, self._stride = context, stride
        self._bounds = [np.concatenate([[0], np.cumsum(of)]) for of in lengths]
        sizes = [self._sizes(int(bounds[-1])) for bounds in self._bounds]
        self._mixer = Mixer(sizes, weights, seed=seed, epochs=epochs)
        self.seen = self._mixer.seen

    def next_row(self) -> list[Segment]:
        drawn = self._mixer.draw()
        if drawn is None:
            return []
        source, window = drawn
        bounds = self._bounds[source]
        start = window * self._stride
        stop = min(start + self._context, int(bounds[-1]))
        first = int(np.searchsorted(bounds, start, side="right")) - 1
        edges = bounds[first : int(np.searchsorted(bounds, stop, side="left")) + 1].tolist()
        return [
            Segment(source, first + place, max(start - begin, 0), min(stop, end) - begin)
            for place, (begin, end) in enumerate(itertools.pairwise(edges))
            if end > begin
        ]

    def state(self) -> dict[str, Any]:
        return {"mix": self._mixer.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self._mixer.restore(state["mix"])

    def _sizes(self, tokens: int) -> np.ndarray:
        """Tokens in each window: all full, but for the last one, which ends with the text."""
        count = 1 + -(-max(0, tokens - self._context) // self._stride)
        starts = np.arange(count, dtype=np.int64) * self._stride
        return np.minimum(self._context, tokens - starts)
