"""`luban data shards`: documents become token ids in memory-mapped files, read by `TokenShards`.

A shards folder holds, for each shard, `tokens-00000.bin` (little-endian uint16, or uint32 above 65,536 ids),
`bounds-00000.npy` (int64: where each document begins, and the end), `ids-00000.jsonl` (each document's id);
`sources.json` with counts per source, and one `index.json` with counts and checksums. No document is split over
two shards. A document is `[bos] tokens eos`: its first word follows something and is learned too, and its end is.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge

from luban.data.document import Document
from luban.data.shard_files import DTYPES, INDEX, SOURCES, VERSION, ShardWriter, file_name
from luban.errors import DataError, LubanError, MachineError
from luban.folder import claim, fingerprint, finish, read_json, write_json

if TYPE_CHECKING:
    from luban.tokenizers.base import Tokenizer

STAGE = "data shards"
PARTS = "parts"
"""What a run keeps in its folder until all is tokenised."""
SHOWN = 12


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
    workers: Annotated[int, Ge(0)] = 0
    """Processes that tokenise; 0 takes one per core. Any number leaves the same bytes."""


def run(config: Config) -> dict[str, Any]:
    """Make the shards folder; returns counts of documents, tokens and bytes, also per source.

    A run that was killed goes on where it was, with any number of workers; one that fails leaves nothing.
    """
    from luban.tokenizers.files import load

    tokenizer = load(config.tokenizer)
    inputs = (*config.data, config.tokenizer / "tokenizer.json")
    same = dataclasses.replace(
        config, workers=0
    )  # what run.json compares: the speed is no part of the result
    folder = claim(config.out, stage=STAGE, config=same, inputs=inputs)
    start = time.monotonic()
    try:
        index, encoder = _make(config, tokenizer, folder)
    except MachineError:
        raise  # what was tokenised stays for the next run
    except LubanError:
        shutil.rmtree(folder)
        raise
    counts = {name: index[name] for name in ("documents", "tokens", "bytes", "empty", "vocab", "dtype")}
    metrics = {
        **counts,
        "shards": len(index["shards"]),
        "sources": read_json(folder / SOURCES),
        "encoder": encoder,
        "seconds": round(time.monotonic() - start, 2),
    }
    finish(folder, metrics)
    return metrics


def show(results: dict[str, Any]) -> None:
    """The counts as two lines, and one per source if there are several."""
    ratio = results["bytes"] / max(results["tokens"], 1)
    print(f"{results['documents']:,} documents, {results['tokens']:,} tokens in {results['shards']} shards")
    print(
        f"{results['bytes']:,} bytes of text, {ratio:.2f} per token; {results['empty']:,} empty ones left out"
    )
    sources = results["sources"] if len(results["sources"]) > 1 else {}
    for name, counts in itertools.islice(sources.items(), SHOWN):
        print(f"  {name:<24} {counts['documents']:>12,} documents {counts['tokens']:>15,} tokens")
    if len(sources) > SHOWN:
        print(f"  {len(sources) - SHOWN:,} more sources in {SOURCES}")


def write_shards(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    bos: bool = True,
    shard_tokens: int = 100_000_000,
    tokenizer_hash: str = "",
) -> dict[str, Any]:
    """Write the shards of `documents` into `folder` and return the index, all in this process.

    Raises DataError if there is no text at all, TokenizerError if the tokenizer has no end token.
    """
    from luban.data.tokenise import Frame, encode_documents

    frame = Frame.of(tokenizer, bos=bos)
    writer = ShardWriter(folder, vocab=frame.vocab, shard_tokens=shard_tokens)
    counts: dict[str, Any] = {}
    for chunk in encode_documents(documents, tokenizer, frame, counts):
        writer.append(chunk)
    return _write_index(folder, writer, frame, counts, tokenizer_hash)


def _make(config: Config, tokenizer: Any, folder: Path) -> tuple[dict[str, Any], str]:
    """Tokenise in parts, then put them together; returns the index, and what encoded."""
    from luban.data.factory import tally
    from luban.data.tokenise import Frame, can_be_fast, parts_of, tokenise_parts

    frame = Frame.of(tokenizer, bos=config.bos)
    fast = can_be_fast(tokenizer, config.data, config.holdout, stage=STAGE)
    encoder = "tiktoken" if fast else "tokenizers"
    where = folder / PARTS
    for left in folder.glob(".*"):  # a file that was being written when the run was killed
        left.unlink()
    if (folder / INDEX).is_file():  # killed when all was done but the last words of run.json
        shutil.rmtree(where, ignore_errors=True)
        return read_json(folder / INDEX), encoder
    parts = parts_of(config.data, config.holdout, where, tokenizer=config.tokenizer, frame=frame, fast=fast)
    tokenise_parts(parts, workers=config.workers, stage=STAGE)
    writer = ShardWriter(folder, vocab=frame.vocab, shard_tokens=config.shard_tokens)
    for part in parts:
        writer.append(part.chunk())
    counts = tally.total(part.counts() for part in parts)
    index = _write_index(folder, writer, frame, counts, fingerprint(config.tokenizer / "tokenizer.json"))
    shutil.rmtree(where)
    return index, encoder


def _write_index(
    folder: Path, writer: ShardWriter, frame: Any, counts: dict[str, Any], tokenizer_hash: str
) -> dict[str, Any]:
    """Close the last shard and write what the folder holds, the index last."""
    shards = writer.finish()
    if not shards:
        raise DataError("no text in these documents", hint="luban data prepare")
    most_first = sorted(counts["sources"].items(), key=lambda item: (-item[1]["tokens"], item[0]))
    write_json(folder / SOURCES, dict(most_first))
    index = {
        "version": VERSION,
        "dtype": writer.dtype,
        "vocab": frame.vocab,
        "bos_id": frame.bos,
        "eos_id": frame.eos,
        "tokenizer": tokenizer_hash,
        "documents": counts["documents"],
        "tokens": counts["tokens"],
        "bytes": counts["bytes"],
        "empty": counts.get("empty", 0),
        "shards": shards,
    }
    write_json(folder / INDEX, index)
    return index


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
        self._tokens = [
            np.asarray(np.memmap(folder / file_name("tokens", n), dtype, mode="r")) for n in shards
        ]
        self._bounds = [np.load(folder / file_name("bounds", n)) for n in shards]
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
            _check_size(
                folder / file_name("tokens", number), shard["tokens"] * DTYPES[index["dtype"]].itemsize
            )
            for name, digest in shard["sha256"].items() if verify else ():
                _check_digest(folder / name, digest)
            _check_bounds(folder / file_name("bounds", number), shard)
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
        with (self.folder / file_name("ids", shard)).open(encoding="utf-8") as file:
            return json.loads(next(itertools.islice(file, place, None)))

    def _locate(self, number: int) -> tuple[int, int]:
        """Its shard, and its place in there."""
        if not 0 <= number < self.documents:
            raise IndexError(f"document {number} of {self.documents}")
        if len(self._tokens) == 1:
            return 0, number
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        return shard, number - int(self._first[shard])


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
