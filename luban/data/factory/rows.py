"""The files of a part: documents as JSON lines, each file whole or absent.

A document that was read here remembers its line. As long as nothing but new entries comes to it, the line is written
again with those at its end: the same bytes as from scratch, and most of a run's documents pass most of its stages so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from luban.data.document import Document
from luban.data.step import Edit
from luban.folder import atomic_file

CHUNK = 1 << 20
MANY = 2000
"""Documents in a batch at most, however short they are."""


NAMED = frozenset(("id", "text", "source"))


@dataclass(frozen=True, kw_only=True)
class Stored(Document):
    """A document with the line that says it."""

    line: bytes = field(repr=False, compare=False)


def dump(document: Document, **more: Any) -> bytes:
    """One JSON line; `more` stands beside the document's own entries."""
    if isinstance(document, Stored) and _are_new(more, document):
        return _extended(document.line, more) if more else document.line
    row = {"id": document.id, "text": document.text, "source": document.source, **document.meta, **more}
    return _json(row) + b"\n"


def edited(document: Document, edit: Edit) -> Document:
    """The document as the edit says."""
    meta = {**document.meta, **edit.meta} if edit.meta else document.meta
    own = document.id if edit.id is None else edit.id
    text = document.text if edit.text is None else edit.text
    same = own is document.id and text is document.text
    if isinstance(document, Stored) and same and _are_new(edit.meta, document):
        line = _extended(document.line, edit.meta) if edit.meta else document.line
        return Stored(id=own, text=text, source=document.source, meta=meta, line=line)
    return Document(id=own, text=text, source=document.source, meta=meta)


def read(path: Path) -> Iterator[Stored]:
    """The documents of a file that `dump` wrote."""
    with path.open("rb", buffering=CHUNK) as file:
        for line in file:
            row = orjson.loads(line)
            key, text, source = row.pop("id"), row.pop("text"), row.pop("source")
            yield Stored(id=key, text=text, source=source, meta=row, line=line)


def _are_new(entries: Mapping[str, Any], document: Document) -> bool:
    return not entries or (NAMED.isdisjoint(entries) and entries.keys().isdisjoint(document.meta))


def _extended(line: bytes, entries: Mapping[str, Any]) -> bytes:
    """The line of a row with more entries at its end."""
    return line[: -len(b"}\n")] + b"," + _json(dict(entries))[1:] + b"\n"


def _json(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)


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

    def write_all(self, lines: Iterable[bytes]) -> None:
        self._file.writelines(lines)

    def __exit__(self, *error: Any) -> None:
        self._file.close()
        self._atomic.__exit__(*error)
