"""Raw files of every format become documents: the first room of the house.

`read_source` reads a path whole, `split_source` and `read_slice` in parts for parallel work; `read_documents`
takes what Luban wrote. What cannot become a document is an error that names its place, unless the caller takes
it: then it is told, counted by its reason, and reading goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from luban.data.document import Document, RecordError, decode
from luban.data.sources.files import everything_in
from luban.data.sources.formats import FORMATS
from luban.data.sources.opening import open_bytes, open_text, suffix
from luban.data.sources.reading import Options, Reject, Slice, raise_rejected
from luban.data.sources.rows import read_rows
from luban.data.sources.slices import group_slices, list_files, read_slice, split_source, whole_file
from luban.errors import DataError

__all__ = [
    "FORMATS",
    "Options",
    "RecordError",
    "Reject",
    "Slice",
    "decode",
    "document_files",
    "everything_in",
    "group_slices",
    "list_files",
    "open_bytes",
    "open_text",
    "read_documents",
    "read_slice",
    "read_source",
    "split_source",
]

HOLDOUT = "holdout.jsonl"
ASIDE = ("holdout", "quarantine")
"""Files of a documents folder whose names begin so are not training text."""


def read_source(
    path: Path, *, text_key: str = "text", options: Options | None = None, reject: Reject | None = None
) -> Iterator[Document]:
    """The documents of a raw file, or of all readable files under a folder in sorted order.

    `text_key` is for callers without other options. Raises DataError for a missing path, a folder with nothing
    to read and an unknown suffix; for all else see `read_slice`.
    """
    options = options or Options(text_key=text_key)
    for file in list_files(path, options=options, reject=reject):
        yield from read_slice(whole_file(file, path), options=options, reject=reject)


def read_documents(paths: Sequence[Path], *, holdout: bool = False) -> Iterator[Document]:
    """The documents in Luban's own folders and files: of a folder the training part, or with `holdout` that.

    Raises DataError for a missing path, a folder without documents, and malformed rows (file:line).
    """
    for path in paths:
        for file in document_files(path, holdout):
            yield from read_rows(Slice(file, file.name), Options(), raise_rejected)


def document_files(path: Path, holdout: bool = False) -> list[Path]:
    """The files that `read_documents` reads of one path; raises DataError as that does."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError("no such file or folder", where=path)
    if holdout:
        if not (path / HOLDOUT).is_file():
            hint = "luban data prepare --holdout 0.02"
            raise DataError(f"the folder has no {HOLDOUT}", where=path, hint=hint)
        return [path / HOLDOUT]
    found = [f for f in sorted(path.iterdir()) if suffix(f) == ".jsonl" and not f.name.startswith(ASIDE)]
    if not found:
        raise DataError("no *.jsonl documents in this folder", where=path, hint="luban data prepare")
    return found
