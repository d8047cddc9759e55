"""From token shards or conversation rows to batches: mixed, packed, split by rank, resumed exactly.

    examples -> Mixer (which document next) -> layout (which tokens in which row) -> Loader (batches)

There is one global stream of rows, whatever the number of processes: a step takes `batch * world` of them
and rank r reads its share, so 1 x 8 and 2 x 4 rows train on the same data, and the cursor is the same on
every rank. Only lengths are needed to plan, so passing over other ranks' rows costs next to nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
import torch

from luban.data.batch import IGNORED, Batch, Origin
from luban.data.packing import (
    SHUFFLED_ROWS,
    Documents,
    Layout,
    Packed,
    Segment,
    Shuffled,
    Whole,
    Windows,
    padded,
)
from luban.data.shards import TokenShards
from luban.errors import CheckpointError, ConfigError, TrainingError, nearest

Packing = Literal["pack", "pad", "windows"]
PACKINGS = ("pack", "pad", "windows")


class Targeted(NamedTuple):
    """A document with targets of its own, which are no next tokens: its class at the place where it is read, say."""

    ids: np.ndarray
    targets: np.ndarray
    """For each of `ids` what is learnt there, or `IGNORED`."""


Example = np.ndarray | tuple[np.ndarray, np.ndarray | None] | Targeted
"""A document's ids, or a pair of ids and mask: True where a token is a trained target (None: everywhere)."""
NO_TARGET = np.iinfo(np.int64).max
VERSION = 2


class Examples(Protocol):
    """Documents by number; `TokenShards` and a list of pairs both are."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Example: ...


@dataclass(frozen=True, kw_only=True)
class Source:
    """Examples with their weight: the share of tokens they get, relative to the other sources."""

    examples: Examples
    weight: float = 1.0
    name: str = "data"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What went by, over all ranks."""

    batches: int = 0
    """Batches of each rank (steps of the stream)."""
    tokens: int = 0
    """Tokens in rows, without padding."""
    padding: int = 0
    """Places of rows left empty."""
    truncated: int = 0
    """Documents cut because they are longer than a row (`pad`, and `pack` with whole documents)."""
    truncated_targets: int = 0
    """Targets lost by that."""
    dropped: int = 0
    """Documents never drawn because they hold no target."""
    epochs: dict[str, float] = dataclasses.field(default_factory=dict)
    """Times each source was gone through, by its name."""


class Loader:
    """An iterator over batches of `batch` rows of `context` tokens.

    `packing`: `pack` lays documents end to end (cut at a row's end and continued in another one, or whole ones,
    first fit, with `split_documents=False`); `pad` puts one in a row; `windows` slides over the text by `stride`.
    `epochs=None` never ends. At the end of the last epoch rows without documents (only padding, no target)
    complete the last batch, so every batch has one shape and every rank as many of them.

    Raises ConfigError for a bad setting, TrainingError for a source without documents or without targets.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        batch: int,
        context: int,
        seed: int = 0,
        packing: Packing = "pack",
        stride: int | None = None,
        split_documents: bool = True,
        epochs: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        _check_sources(sources)
        _check_numbers(batch, context, epochs, rank, world)
        _check_packing(packing, context, stride)
        self.batch, self.context, self.rank, self.world = batch, context, rank, world
        self._sources = list(sources)
        longest = context if packing == "pad" or (packing == "pack" and not split_documents) else None
        scans = [_scan(source) for source in sources]
        lengths = [of for of, _ in scans]
        kept = [
            _with_targets(source, first, longest) for source, (_, first) in zip(sources, scans, strict=True)
        ]
        weights = [source.weight for source in sources]
        stride = stride or context
        self._layout: Layout
        if packing == "windows":
            self._layout = Windows(lengths, weights, context=context, stride=stride, seed=seed, epochs=epochs)
            kept = lengths
        else:
            documents = Documents(lengths, kept, weights, seed=seed, epochs=epochs, longest=longest)
            layout = padded if packing == "pad" else Whole if longest else Packed
            self._layout = layout(documents, context=context)
            if layout is Packed:
                rows = _block_rows(lengths, context)
                self._layout = Shuffled(self._layout, rows=rows, sources=len(sources), seed=seed)
        self._counts = Counts(dropped=sum(map(len, lengths)) - sum(map(len, kept)))
        self._endless = epochs is None
        self._settings = {
            "packing": packing,
            "split_documents": split_documents,
            "context": context,
            "stride": stride,
            "seed": seed,
            "sources": [
                {"name": source.name, "weight": source.weight, "documents": len(of), "tokens": int(of.sum())}
                for source, of in zip(sources, lengths, strict=True)
            ],
        }

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        rows = self._plan()
        if rows is None:
            raise StopIteration
        return self._read(rows[self.rank * self.batch : (self.rank + 1) * self.batch])

    @property
    def counts(self) -> Counts:
        """What went by until now, over all ranks."""
        cut, lost = self._layout.truncated
        seen = {source.name: self._layout.seen(place) for place, source in enumerate(self._sources)}
        return dataclasses.replace(self._counts, truncated=cut, truncated_targets=lost, epochs=seen)

    def state(self) -> dict[str, Any]:
        """The cursor after the last batch: JSON-able, the same on every rank, of any `batch` and `world`."""
        counts = {name: getattr(self._counts, name) for name in ("batches", "tokens", "padding")}
        return {
            "version": VERSION,
            "settings": self._settings,
            "counts": counts,
            "layout": self._layout.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken. Raises CheckpointError if the stream is another one."""
        if state.get("version") != VERSION:
            raise CheckpointError(f"a data cursor of version {state.get('version')!r}, expected {VERSION}")
        for name, mine in self._settings.items():
            theirs = state["settings"].get(name)
            if theirs != mine:
                raise CheckpointError(f"the run was at other data: '{name}' was {theirs}, now {mine}")
        self._layout.restore(state["layout"])
        self._counts = dataclasses.replace(self._counts, **state["counts"])

    def remaining(self) -> int:
        """Batches each rank still gets until the end of the last epoch; found by planning, without reading.

        Raises ConfigError for an endless stream.
        """
        if self._endless:
            raise ConfigError("an endless stream has no number of batches", hint="give epochs")
        state = self.state()
        before = self._counts.batches
        while self._plan() is not None:
            pass
        count = self._counts.batches - before
        self.restore(state)
        return count

    def _plan(self) -> list[list[Segment]] | None:
        """The rows of all ranks for one step, or None at the end."""
        rows = [row for _ in range(self.batch * self.world) if (row := self._layout.next_row())]
        if not rows:
            return None
        places = self.batch * self.world * self.context
        tokens = sum(segment.stop - segment.start for row in rows for segment in row)
        self._counts = dataclasses.replace(
            self._counts,
            batches=self._counts.batches + 1,
            tokens=self._counts.tokens + tokens,
            padding=self._counts.padding + places - tokens,
        )
        return rows + [[] for _ in range(self.batch * self.world - len(rows))]

    def _read(self, rows: list[list[Segment]]) -> Batch:
        shape = (self.batch, self.context)
        tokens, positions, documents = (np.zeros(shape, np.int64) for _ in range(3))
        targets = np.full(shape, IGNORED, np.int64)
        for place, row in enumerate(rows):
            self._read_row(row, tokens[place], targets[place])
            positions[place], documents[place] = _borders(row, self.context)
        return Batch(
            tokens=torch.from_numpy(tokens),
            targets=torch.from_numpy(targets),
            positions=torch.from_numpy(positions),
            documents=torch.from_numpy(documents),
            ids=[Origin(self._sources[s.source].name, s.document) for row in rows for s in row],
            packed=any(len(row) > 1 for row in rows),
        )

    def _read_row(self, row: list[Segment], tokens: np.ndarray, targets: np.ndarray) -> None:
        """Fill one row. A target is the next token of the same document, even where the row ends before."""
        at = 0
        for source, document, start, stop in row:
            example = self._sources[source].examples[document]
            ids, mask = _pair(example)
            end = at + stop - start
            tokens[at:end] = ids[start:stop]
            if isinstance(example, Targeted):
                targets[at:end] = example.targets[start:stop]
            else:
                _shift(ids[start + 1 : stop + 1], mask, start + 1, targets[at:end])
            at = end


def _shift(following: np.ndarray, mask: np.ndarray | None, first: int, targets: np.ndarray) -> None:
    """Write the tokens `following`, which stand from `first` on in their document, as targets."""
    known = targets[: len(following)]
    known[:] = following
    if mask is not None:
        known[~mask[first : first + len(following)]] = IGNORED


def _borders(row: list[Segment], context: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions, restarting with each segment and at the padding, and the ordinal of each one's segment."""
    lengths = [segment.stop - segment.start for segment in row]
    lengths.append(context - sum(lengths))
    starts = np.cumsum([0, *lengths[:-1]])
    return np.arange(context) - np.repeat(starts, lengths), np.repeat(np.arange(len(lengths)), lengths)


def _block_rows(lengths: Sequence[np.ndarray], context: int) -> int:
    """How many rows are shuffled together: a small part of an epoch, so that one is through before the next."""
    tokens = sum(int(of.sum()) for of in lengths)
    return max(1, min(SHUFFLED_ROWS, tokens // context // 8))


def _pair(example: Example) -> tuple[np.ndarray, np.ndarray | None]:
    if isinstance(example, Targeted):
        return example.ids, None
    return (example, None) if isinstance(example, np.ndarray) else (example[0], example[1])


def _scan(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Of each document its length, and the place of its first target (`NO_TARGET` if there is none)."""
    examples = source.examples
    if isinstance(examples, TokenShards):
        return examples.lengths, np.where(examples.lengths > 1, 1, NO_TARGET)
    lengths = np.zeros(len(examples), np.int64)
    first = np.full(len(examples), NO_TARGET)
    for number in range(len(examples)):
        example = examples[number]
        ids, mask = _pair(example)
        if mask is not None and mask.shape != ids.shape:
            where = f"{source.name} document {number}"
            raise TrainingError(f"{len(ids)} ids but a mask of {len(mask)}", where=where)
        lengths[number] = len(ids)
        if isinstance(example, Targeted):
            trained = np.flatnonzero(example.targets != IGNORED)
        else:
            trained = np.flatnonzero(mask[1:]) if mask is not None else np.arange(len(ids) - 1)[:1]
        if len(trained):
            first[number] = trained[0] + 1
    return lengths, first


def _with_targets(source: Source, first: np.ndarray, longest: int | None) -> np.ndarray:
    """Numbers of the documents with a target among the tokens a row can take; raises if none has."""
    if not len(first):
        raise TrainingError("the source holds no documents", where=source.name)
    kept = np.flatnonzero(first <= (NO_TARGET - 1 if longest is None else longest))
    if not len(kept):
        hint = "check the rows and their masks, or use a longer context"
        raise TrainingError(
            f"none of {len(first)} documents has a token to learn", where=source.name, hint=hint
        )
    return kept


def _check_sources(sources: Sequence[Source]) -> None:
    names = [source.name for source in sources]
    if not sources:
        raise ConfigError("no source of data is given")
    if len(set(names)) < len(names):
        raise ConfigError(f"two sources have one name: {', '.join(names)}")
    for source in sources:
        if not 0 < source.weight < float("inf"):
            raise ConfigError(f"the weight of '{source.name}' is {source.weight}; it must be above 0")


def _check_numbers(batch: int, context: int, epochs: int | None, rank: int, world: int) -> None:
    if context < 2:
        raise ConfigError(f"context is {context}; a token and its successor need at least 2")
    if batch < 1 or (epochs is not None and epochs < 1):
        raise ConfigError(f"batch is {batch} and epochs {epochs}; both must be at least 1")
    if not 0 <= rank < world:
        raise ConfigError(f"rank is {rank}; it must be from 0 to world - 1 ({world - 1})")


def _check_packing(packing: str, context: int, stride: int | None) -> None:
    if packing not in PACKINGS:
        raise ConfigError(f"unknown packing '{packing}'; {nearest(packing, PACKINGS)}")
    if stride not in (None, context) and not (packing == "windows" and 1 <= stride <= context):
        raise ConfigError(f"stride is {stride}; it is for packing 'windows', from 1 to context ({context})")
