"""The files of a shards folder, and how tokens get into them.

Documents come as `Chunk`s, in order; where a shard ends depends on the documents alone, never on how they were
cut into chunks, so any number of workers leaves the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from luban.folder import fingerprint, write_text

VERSION = 1
INDEX = "index.json"
SOURCES = "sources.json"
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def file_name(kind: str, number: int) -> str:
    """The name of one file of shard `number`: of its tokens, bounds or ids."""
    suffix = {"tokens": "bin", "bounds": "npy", "ids": "jsonl"}[kind]
    return f"{kind}-{number:05d}.{suffix}"


def dtype_name(vocab: int) -> str:
    """The narrowest type that holds every id."""
    return "uint16" if vocab <= 1 << 16 else "uint32"


@dataclass(frozen=True)
class Chunk:
    """Tokens of some documents in a row: document i is `tokens[bounds[i] : bounds[i + 1]]`."""

    tokens: np.ndarray
    bounds: np.ndarray  # int64 [documents + 1], begins with 0
    names: Sequence[str]
    """A JSON line with the id of each document."""


class ShardWriter:
    """Streams chunks to disk, one shard after another; memory holds the bounds and ids of one shard."""

    def __init__(self, folder: Path, *, vocab: int, shard_tokens: int) -> None:
        self.dtype = dtype_name(vocab)
        self._folder, self._shard_tokens = folder, shard_tokens
        self._shards: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self._tokens = 0
        self._bounds: list[np.ndarray] = []
        self._names: list[str] = []

    def append(self, chunk: Chunk) -> None:
        """Write the documents of `chunk`; a shard ends with the document that fills it."""
        done, documents = 0, len(chunk.bounds) - 1
        while done < documents:
            room = self._shard_tokens - self._tokens + chunk.bounds[done]
            end = min(int(np.searchsorted(chunk.bounds[done + 1 :], room)) + done + 1, documents)
            self._write(chunk, done, end)
            if self._tokens >= self._shard_tokens:
                self._close()
            done = end

    def finish(self) -> list[dict[str, Any]]:
        """Close the last shard; returns what the index says of each."""
        if self._file is not None:
            self._close()
        return self._shards

    def _write(self, chunk: Chunk, begin: int, end: int) -> None:
        """Add documents [begin, end) to the open shard."""
        if self._file is None:
            self._file = (self._folder / file_name("tokens", len(self._shards))).open("wb")
            self._tokens, self._bounds, self._names = 0, [np.zeros(1, np.int64)], []
        bounds = chunk.bounds[begin : end + 1]
        part = chunk.tokens[bounds[0] : bounds[-1]]
        self._file.write(np.ascontiguousarray(part, DTYPES[self.dtype]).data)
        self._bounds.append(bounds[1:] - bounds[0] + self._tokens)
        self._names += chunk.names[begin:end]
        self._tokens += len(part)

    def _close(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
        number = len(self._shards)
        bounds = np.concatenate(self._bounds)
        np.save(self._folder / file_name("bounds", number), bounds)
        write_text(self._folder / file_name("ids", number), "".join(self._names))
        files = [file_name(kind, number) for kind in ("tokens", "bounds", "ids")]
        self._shards.append(
            {
                "documents": len(bounds) - 1,
                "tokens": self._tokens,
                "sha256": {name: fingerprint(self._folder / name) for name in files},
            }
        )
        self._tokens = 0


def name_line(name: str) -> str:
    """A document's id as a line of the ids file."""
    return json.dumps(name, ensure_ascii=False) + "\n"
