"""Documents to tokens in parallel: each part of the input becomes files of its own, whole or absent.

A part is a fixed piece of the input, whatever the number of workers; its counts are written last, so a run that
was killed does again only the parts without counts.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from luban.data.document import Document
from luban.data.factory import tally
from luban.data.factory.engine import finish_tasks, workers_here
from luban.data.shard_files import DTYPES, Chunk, dtype_name, name_line
from luban.data.sources import Slice, document_files, group_slices, read_documents, read_slice, split_source
from luban.errors import TokenizerError
from luban.folder import atomic_file, read_json, write_json

if TYPE_CHECKING:
    from luban.tokenizers.base import Tokenizer
    from luban.tokenizers.files import FileTokenizer

PART_BYTES = 16 << 20
"""Input of one part: seconds of work, and what a kill costs each worker."""
BATCH_CHARS = 1 << 20
"""Text encoded at once: enough to keep an encoder's threads busy, little enough for memory."""
SAMPLES, SAMPLE_CHARS = 100, 5000
"""How many of the documents, and how much of each, a fast encoder is tried on before it is used."""


class Encoder(Protocol):
    """What texts become ids with: a tokenizer, or its faster equal."""

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Frame:
    """What stands around each document's tokens, and the bound of ids."""

    bos: int | None
    eos: int
    vocab: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, bos: bool) -> Frame:
        """Raises TokenizerError if the tokenizer has no end token."""
        if tokenizer.eos_id is None:
            raise TokenizerError("the tokenizer has no end-of-sequence token to end documents with")
        return cls(tokenizer.bos_id if bos else None, tokenizer.eos_id, tokenizer.vocab_size)


@dataclass(frozen=True)
class Part:
    """Piece `index` of the input and where its files go."""

    index: int
    slices: tuple[Slice, ...]
    folder: Path
    tokenizer: Path
    frame: Frame
    fast: bool

    def file(self, suffix: str) -> Path:
        return self.folder / f"{self.index:05d}.{suffix}"

    @property
    def done(self) -> bool:
        return self.file("json").is_file()

    def chunk(self) -> Chunk:
        """What `tokenise` wrote; the tokens stay on disk until they are read."""
        dtype = DTYPES[dtype_name(self.frame.vocab)]
        size = self.file("bin").stat().st_size
        tokens = np.memmap(self.file("bin"), dtype, mode="r") if size else np.empty(0, dtype)
        with self.file("jsonl").open(encoding="utf-8", newline="\n") as names:
            return Chunk(tokens, np.load(self.file("npy")), list(names))

    def counts(self) -> tally.Counts:
        return read_json(self.file("json"))


def parts_of(
    data: Sequence[Path], holdout: bool, folder: Path, *, tokenizer: Path, frame: Frame, fast: bool
) -> list[Part]:
    """The input in pieces of about PART_BYTES; small files share one, large ones of lines are cut."""
    files = (file for path in data for file in document_files(path, holdout))
    groups = group_slices((piece for file in files for piece in split_source(file, PART_BYTES)), PART_BYTES)
    return [Part(index, group, folder, tokenizer, frame, fast) for index, group in enumerate(groups)]


def tokenise_parts(parts: Sequence[Part], *, workers: int, stage: str) -> None:
    """Tokenise what is not done, on `workers` processes (0: one per core)."""
    waiting = [part for part in parts if not part.done]
    if len(waiting) < len(parts):
        done = len(parts) - len(waiting)
        print(f"{stage}: {done} of {len(parts)} parts were done before", file=sys.stderr)
    finish_tasks(tokenise, waiting, engine="pool", workers=workers_here(workers), label=stage)


def tokenise(part: Part) -> int:
    """Write the part's tokens, bounds and ids, and last its counts; returns its index."""
    if multiprocessing.parent_process() is not None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    counts: tally.Counts = {}
    documents = (document for piece in part.slices for document in read_slice(piece))
    bounds, start = [np.zeros(1, np.int64)], 0
    part.folder.mkdir(parents=True, exist_ok=True)
    with (
        atomic_file(part.file("bin")) as work,
        atomic_file(part.file("jsonl")) as names,
        work.open("wb") as tokens,
        names.open("w", encoding="utf-8", newline="\n") as lines,
    ):
        encoder = open_encoder(part.tokenizer, part.fast)
        for chunk in encode_documents(documents, encoder, part.frame, counts):
            tokens.write(chunk.tokens.data)
            lines.writelines(chunk.names)
            bounds.append(chunk.bounds[1:] + start)
            start += len(chunk.tokens)
    with atomic_file(part.file("npy")) as work, work.open("wb") as file:
        np.save(file, np.concatenate(bounds))
    write_json(part.file("json"), counts)
    return part.index


def encode_documents(
    documents: Iterable[Document], encoder: Encoder, frame: Frame, counts: tally.Counts
) -> Iterator[Chunk]:
    """Chunks of `[bos] tokens eos`; documents without tokens are left out and counted as `empty`.

    Adds to `counts` as it goes. Raises TokenizerError for an id outside the vocabulary.
    """
    head = np.array([] if frame.bos is None else [frame.bos], np.int64)
    end = np.array([frame.eos], np.int64)
    for batch in _batches(documents):
        encoded = encoder.encode_batch([document.text for document in batch])
        pieces: list[np.ndarray] = []
        sizes, names = [0], list[str]()
        for document, ids in zip(batch, encoded, strict=True):
            size = len(head) + len(ids) + 1 if len(ids) else 0
            _count(counts, document, size)
            if size:
                array = np.asarray(ids)
                _check_range(array, frame.vocab, document.id)
                pieces += [head, array, end]
                sizes.append(size)
                names.append(name_line(document.id))
        if names:
            tokens = np.concatenate(pieces).astype(DTYPES[dtype_name(frame.vocab)])
            yield Chunk(tokens, np.cumsum(sizes), names)


@functools.lru_cache(maxsize=1)
def open_encoder(folder: Path, fast: bool) -> Encoder:
    """The tokenizer of `folder`, or its faster equal; opened once per process."""
    from luban.tokenizers.fast import fast_encoder
    from luban.tokenizers.files import load

    tokenizer = load(folder)
    return fast_encoder(tokenizer) if fast else tokenizer


def can_be_fast(tokenizer: FileTokenizer, data: Sequence[Path], holdout: bool, *, stage: str) -> bool:
    """Whether the fast encoder gives the same ids, also on the first documents; says on stderr why not."""
    from luban.tokenizers.fast import NotConvertible, fast_encoder

    first = zip(range(SAMPLES), read_documents(data, holdout=holdout), strict=False)
    try:
        fast_encoder(tokenizer, samples=[document.text[:SAMPLE_CHARS] for _, document in first])
    except NotConvertible as reason:
        print(
            f"{stage}: encoding by `tokenizers`, not several times faster by tiktoken: {reason}",
            file=sys.stderr,
        )
        return False
    return True


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += len(document.text)
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _check_range(ids: np.ndarray, vocab: int, name: str) -> None:
    if int(ids.max()) >= vocab:
        raise TokenizerError(f"id {ids.max()} in a vocabulary of {vocab}", where=name)


def _count(counts: tally.Counts, document: Document, tokens: int) -> None:
    if not tokens:
        tally.add(counts, {"empty": 1})
        return
    own = {"documents": 1, "tokens": tokens, "bytes": len(document.text.encode("utf-8"))}
    tally.add(counts, {**own, "sources": {document.source: own}})
