"""What every reader of a raw format is given: a slice of a file, how to read it, and where bad input goes.

A reader is a function `(Slice, Options, Reject) -> Iterator[Document]`. It keeps in memory one record at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from luban.data.document import Document, RecordError

Reject = Callable[[RecordError, str], None]
"""Takes what could not become a document: the reason, and how it begins."""
SHOWN = 400
"""Bytes of a rejected record that are shown."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How raw files are read."""

    format: str | None = None
    """Read every file as this, whatever its suffix says; needed for archives, code, mail folders and logs."""
    text_key: str = "text"
    """Where the text stands in a row or column."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our name of a row's value by theirs: {url: link} keeps `link` as `url`; `id` may be named too."""
    languages: tuple[str, str] | None = None
    """Source and target of parallel text: suffixes of paired files (`a.en` and `a.zh`), or columns of a TMX."""
    license: str | None = None
    """The licence (SPDX) of every document that does not say its own."""
    template: str = "{source}\n{target}"
    """How both sides of parallel text become one text."""
    max_record_bytes: Annotated[int, Ge(1)] = 64 << 20
    """A line, record, page or file that would become a larger document is rejected, and never loaded."""
    max_ratio: Annotated[float, Ge(1)] = 300
    """A file that unpacks to more than so many times its size (and over 64 MiB) is a bomb: it is not read on."""

    def licensed(self, document: Document) -> Document:
        """The document with a licence: its own, else the one that was given for all."""
        if self.license is None or document.meta.get("license"):
            return document
        return dataclasses.replace(document, meta={**document.meta, "license": self.license})

    def renamed(self, document: Document) -> Document:
        """The document with its meta under our names; an `id` that `columns` names becomes its own."""
        if not self.columns:
            return document
        ours = {theirs: name for name, theirs in self.columns.items()}
        meta = {ours.get(key, key): value for key, value in document.meta.items()}
        own = str(meta.pop("id")) if meta.get("id") is not None else document.id
        return dataclasses.replace(document, id=own, meta=meta)


@dataclass(frozen=True)
class Slice:
    """A part of a file that is read on its own: bytes `[begin, end)` of lines, or row groups, or all of it."""

    path: Path
    name: str
    """What its documents call their source: the path below the folder that was asked for."""
    begin: int = 0
    end: int | None = None
    first: int = 1
    """The number of its first line or row within the file."""
    root: Path | None = None
    """The folder that was asked for; None for a single file."""


Reader = Callable[[Slice, Options, Reject], Iterator[Document]]


def raise_rejected(error: RecordError, _shown: str) -> None:
    """The Reject of a caller who takes none: the first bad record is an error."""
    raise error


def shown(raw: bytes | str) -> str:
    """The beginning of a rejected record, as text whatever its bytes are."""
    if isinstance(raw, str):
        return raw[:SHOWN]
    return raw[:SHOWN].decode("utf-8", "backslashreplace")


def known(**meta: Any) -> dict[str, Any]:
    """The entries that have a value, for a document's `meta`."""
    return {key: value for key, value in meta.items() if value not in (None, "", [], {})}
