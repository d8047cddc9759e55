"""`luban data shards`: documents become token ids in memory-mapped files, read by `TokenShards`.

A shards folder holds, for each shard, `tokens-00000.bin` (little-endian uint16, or uint32 above 65,536 ids),
`bounds-00000.npy` (int64: where each document begins, and the end), `ids-00000.jsonl` (each document's id),
and one `index.json` with counts and checksums. No document is split over two shards. A document is
`[bos] tokens eos`: its first word follows something and is learned too, and its end is.
"""

from __future__ import annotations

import itertools
import json
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import numpy as np
from annotated_types import Ge

from luban.data.document import Document
from luban.data.progress import announce
from luban.data.sources import read_documents
from luban.errors import DataError, TokenizerError
from luban.folder import fingerprint, read_json, stage_folder, write_json, write_text

if TYPE_CHECKING:
    from luban.tokenizers.base import Tokenizer

VERSION = 1
INDEX = "index.json"
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
BATCH_CHARS = 1 << 20
"""Text handed to the tokenizer at once: enough to keep its threads busy, little enough for memory."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Documents to token shards."""

    data: tuple[Path, ...]
    """Documents folders (their training part) or files, as `luban data prepare` makes them."""
    tokenizer: Path
    """A folder with a tokenizer: its own, or a model's."""
    out: Path
    """The shards folder to make."""
    holdout: bool = False
    """Take the held-out part of the folders instead."""
    bos: bool = True
    """Begin each document with the tokenizer's beginning-of-sequence token, if it has one."""
    shard_tokens: Annotated[int, Ge(1)] = 100_000_000
    """Begin a new shard when one holds this many tokens."""


def run(config: Config) -> dict[str, Any]:
    """Make the shards folder; returns counts of documents, tokens and bytes."""
    from luban.tokenizers.files import load

    tokenizer = load(config.tokenizer)
    inputs = (*config.data, config.tokenizer / "tokenizer.json")
    with stage_folder(config.out, stage="data shards", config=config, inputs=inputs) as (folder, metrics):
        start = time.monotonic()
        documents = read_documents(config.data, holdout=config.holdout)
        stream = announce(documents, stage="data shards", noun="documents")
        index = write_shards(
            stream,
            tokenizer,
            folder,
            bos=config.bos,
            shard_tokens=config.shard_tokens,
            tokenizer_hash=fingerprint(config.tokenizer / "tokenizer.json"),
        )
        counts = {name: index[name] for name in ("documents", "tokens", "bytes", "empty", "vocab", "dtype")}
        metrics.update(counts, shards=len(index["shards"]), seconds=round(time.monotonic() - start, 2))
    return metrics


def show(results: dict[str, Any]) -> None:
    """The counts as two lines."""
    ratio = results["bytes"] / max(results["tokens"], 1)
    print(f"{results['documents']:,} documents, {results['tokens']:,} tokens in {results['shards']} shards")
    print(
        f"{results['bytes']:,} bytes of text, {ratio:.2f} per token; {results['empty']:,} empty ones left out"
    )


def write_shards(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    bos: bool = True,
    shard_tokens: int = 100_000_000,
    tokenizer_hash: str = "",
) -> dict[str, Any]:
    """Write the shards of `documents` into `folder` and return the index.

    Raises DataError if there is no text at all, TokenizerError if the tokenizer has no end token.
    """
    if tokenizer.eos_id is None:
        raise TokenizerError("the tokenizer has no end-of-sequence token to end documents with")
    head = [tokenizer.bos_id] if bos and tokenizer.bos_id is not None else []
    writer = _Writer(folder, vocab=tokenizer.vocab_size, shard_tokens=shard_tokens)
    size = empty = 0
    for texts, batch in _batches(documents):
        for document, ids in zip(batch, tokenizer.encode_batch(texts), strict=True):
            if not ids:
                empty += 1
                continue
            writer.add([*head, *ids, tokenizer.eos_id], document.id)
            size += len(document.text.encode("utf-8"))
    shards = writer.finish()
    if not shards:
        raise DataError("no text in these documents", hint="luban data prepare")
    index = {
        "version": VERSION,
        "dtype": writer.dtype,
        "vocab": tokenizer.vocab_size,
        "bos_id": head[0] if head else None,
        "eos_id": tokenizer.eos_id,
        "tokenizer": tokenizer_hash,
        "documents": sum(shard["documents"] for shard in shards),
        "tokens": sum(shard["tokens"] for shard in shards),
        "bytes": size,
        "empty": empty,
        "shards": shards,
    }
    write_json(folder / INDEX, index)
    return index


def _batches(documents: Iterable[Document]) -> Iterator[tuple[list[str], list[Document]]]:
    batch: list[Document] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += len(document.text)
        if chars >= BATCH_CHARS:
            yield [member.text for member in batch], batch
            batch, chars = [], 0
    if batch:
        yield [member.text for member in batch], batch


class _Writer:
    """Streams tokens to disk, one shard after another; memory holds the bounds and ids of one shard."""

    def __init__(self, folder: Path, *, vocab: int, shard_tokens: int) -> None:
        self.dtype = "uint16" if vocab <= 1 << 16 else "uint32"
        self._folder, self._vocab, self._shard_tokens = folder, vocab, shard_tokens
        self._shards: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self._bounds: array[int] = array("q")
        self._names: list[str] = []

    def add(self, ids: list[int], name: str) -> None:
        if max(ids) >= self._vocab:
            raise TokenizerError(f"id {max(ids)} in a vocabulary of {self._vocab}", where=name)
        if self._file is None:
            self._file = (self._folder / _file("tokens", len(self._shards))).open("wb")
            self._bounds, self._names = array("q", [0]), []
        self._file.write(np.asarray(ids, DTYPES[self.dtype]).tobytes())
        self._bounds.append(self._bounds[-1] + len(ids))
        self._names.append(json.dumps(name, ensure_ascii=False) + "\n")
        if self._bounds[-1] >= self._shard_tokens:
            self._close()

    def finish(self) -> list[dict[str, Any]]:
        """Close the last shard; returns what the index says of each."""
        if self._file is not None:
            self._close()
        return self._shards

    def _close(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
        number = len(self._shards)
        np.save(self._folder / _file("bounds", number), np.asarray(self._bounds, np.int64))
        write_text(self._folder / _file("ids", number), "".join(self._names))
        files = {kind: _file(kind, number) for kind in ("tokens", "bounds", "ids")}
        self._shards.append(
            {
                "documents": len(self._bounds) - 1,
                "tokens": self._bounds[-1],
                "sha256": {name: fingerprint(self._folder / name) for name in files.values()},
            }
        )


class TokenShards:
    """All documents of a shards folder, in order; `shards[i]` are the ids of document i, not copied."""

    def __init__(self, index: dict[str, Any], folder: Path) -> None:
        self.folder, self.index = folder, index
        self.documents: int = index["documents"]
        self.tokens: int = index["tokens"]
        self.bytes: int = index["bytes"]
        """UTF-8 bytes of the text (without bos and eos): what bits per byte are divided by."""
        self.vocab: int = index["vocab"]
        self.eos_id: int = index["eos_id"]
        dtype = DTYPES[index["dtype"]]
        shards = range(len(index["shards"]))
        self._tokens = [np.asarray(np.memmap(folder / _file("tokens", n), dtype, mode="r")) for n in shards]
        self._bounds = [np.load(folder / _file("bounds", n)) for n in shards]
        self._first = np.cumsum([0, *(len(bounds) - 1 for bounds in self._bounds)])

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> TokenShards:
        """The shards in `folder`, after checking every file against the index.

        `verify=False` compares sizes only: checksums read each byte once, about a second per GB. Raises
        DataError that says which file differs, and in what.
        """
        folder = Path(folder)
        index = _read_index(folder)
        for number, shard in enumerate(index["shards"]):
            _check_size(folder / _file("tokens", number), shard["tokens"] * DTYPES[index["dtype"]].itemsize)
            for name, digest in shard["sha256"].items() if verify else ():
                _check_digest(folder / name, digest)
            _check_bounds(folder / _file("bounds", number), shard)
        return cls(index, folder)

    def __len__(self) -> int:
        return self.documents

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(self.documents))

    def __getitem__(self, number: int) -> np.ndarray:
        shard, place = self._locate(number)
        bounds = self._bounds[shard]
        return self._tokens[shard][bounds[place] : bounds[place + 1]]

    @property
    def targets(self) -> int:
        """Tokens that are learned: all but the first of each document."""
        return self.tokens - self.documents

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, bos and eos counted."""
        return np.concatenate([np.diff(bounds) for bounds in self._bounds])

    def document_id(self, number: int) -> str:
        """The `Document.id` of document `number`; reads a file: meant for messages, not for loops."""
        shard, place = self._locate(number)
        with (self.folder / _file("ids", shard)).open(encoding="utf-8") as file:
            return json.loads(next(itertools.islice(file, place, None)))

    def _locate(self, number: int) -> tuple[int, int]:
        """Its shard, and its place in there."""
        if not 0 <= number < self.documents:
            raise IndexError(f"document {number} of {self.documents}")
        if len(self._tokens) == 1:
            return 0, number
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        return shard, number - int(self._first[shard])


def _file(kind: str, number: int) -> str:
    suffix = {"tokens": "bin", "bounds": "npy", "ids": "jsonl"}[kind]
    return f"{kind}-{number:05d}.{suffix}"


def _read_index(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise DataError("no such shards folder", where=folder, hint="luban data shards")
    if not (folder / INDEX).is_file():
        raise DataError(f"not a shards folder: it has no {INDEX}", where=folder, hint="luban data shards")
    index = read_json(folder / INDEX)
    version = index.get("version") if isinstance(index, dict) else None
    if version != VERSION:
        raise DataError(f"shards of format {version!r}, this Luban reads {VERSION}", where=folder / INDEX)
    try:
        _check_totals(index, folder)
    except (KeyError, TypeError) as error:
        raise DataError(f"the index is incomplete: {error}", where=folder / INDEX) from None
    return index


def _check_totals(index: dict[str, Any], folder: Path) -> None:
    if index["dtype"] not in DTYPES:
        raise DataError(f"unknown dtype {index['dtype']!r}", where=folder / INDEX)
    _ = index["bytes"], index["vocab"], index["eos_id"]
    for name in ("documents", "tokens"):
        total = sum(shard[name] for shard in index["shards"])
        if total != index[name]:
            raise DataError(f"{index[name]} {name}, but {total} in its shards", where=folder / INDEX)


def _check_size(path: Path, expected: int) -> None:
    if not path.is_file():
        raise _damaged("a shard file is missing", path)
    actual = path.stat().st_size
    if actual != expected:
        raise _damaged(f"{expected} bytes expected, {actual} found", path)


def _check_digest(path: Path, expected: str) -> None:
    if not path.is_file():
        raise _damaged("a shard file is missing", path)
    actual = fingerprint(path)
    if actual != expected:
        raise _damaged(f"corrupted: SHA-256 {expected[:12]}... expected, {actual[:12]}... found", path)


def _check_bounds(path: Path, shard: dict[str, Any]) -> None:
    try:
        bounds = np.load(path)
    except FileNotFoundError:
        raise _damaged("a shard file is missing", path) from None
    except (ValueError, EOFError) as error:
        raise _damaged(f"corrupted: {error}", path) from None
    found = (len(bounds) - 1, int(bounds[-1])) if bounds.ndim == 1 and len(bounds) else (0, 0)
    expected = (shard["documents"], shard["tokens"])
    if found != expected:
        raise _damaged(f"(documents, tokens) {expected} expected, {found} found", path)


def _damaged(what: str, path: Path) -> DataError:
    return DataError(what, where=path, hint="make the shards again: luban data shards")
