"""The files of a part: documents as JSON lines, each file whole or absent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from luban.data.document import Document
from luban.folder import atomic_file

CHUNK = 1 << 20
MANY = 2000
"""Documents in a batch at most, however short they are."""


def dump(document: Document, **more: Any) -> bytes:
    """One JSON line; `more` stands beside the document's own entries."""
    row = {"id": document.id, "text": document.text, "source": document.source, **document.meta, **more}
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)


def read(path: Path) -> Iterator[Document]:
    """The documents of a file that `dump` wrote."""
    for _, row in lines(path):
        key, text, source = row.pop("id"), row.pop("text"), row.pop("source")
        yield Document(id=key, text=text, source=source, meta=row)


def lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The same file's lines, each with what it says."""
    with path.open("rb", buffering=CHUNK) as file:
        for line in file:
            yield line, orjson.loads(line)


def batches(documents: Iterable[Document], *, size: int) -> Iterator[list[Document]]:
    """Neighbours together, up to `size` characters (one longer document makes a batch alone) or MANY documents."""
    batch: list[Document] = []
    chars = 0
    for document in documents:
        if batch and (chars + len(document.text) > size or len(batch) == MANY):
            yield batch
            batch, chars = [], 0
        batch.append(document)
        chars += len(document.text)
    if batch:
        yield batch


@dataclass(frozen=True)
class Files:
    """Where a stage keeps part `index`."""

    folder: Path
    index: int

    def of(self, kind: str, suffix: str = "jsonl") -> Path:
        """The part's file of one kind: kept, rejected, quarantine, stats, ..."""
        return self.folder / kind / f"{self.index:05d}.{suffix}"


class Writer:
    """Lines into a file that appears whole when the block ends well; `durable` as in `atomic_file`."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._atomic = atomic_file(path, durable=durable)
        self._file: BinaryIO

    def __enter__(self) -> Writer:
        self._file = self._atomic.__enter__().open("wb", buffering=CHUNK)
        return self

    def write(self, line: bytes) -> None:
        self._file.write(line)

    def __exit__(self, *error: Any) -> None:
        self._file.close()
        self._atomic.__exit__(*error)
