"""Cuts sources into slices that can be read in parallel; read in order they give what the whole file gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from luban.data.document import Document, RecordError
from luban.data.sources.files import everything_in
from luban.data.sources.formats import FORMATS, choices, format_of
from luban.data.sources.opening import BUFFER, open_bytes
from luban.data.sources.reading import Options, Reject, Slice, raise_rejected
from luban.data.sources.tables import open_parquet
from luban.data.sources.warc import split_members
from luban.errors import DataError

BY_LINES = ("jsonl", "lines")


def read_slice(
    part: Slice, *, options: Options | None = None, reject: Reject | None = None
) -> Iterator[Document]:
    """The documents of a slice.

    What cannot become a document goes to `reject`, one call each, and reading goes on behind it; a file that
    cannot be read (on) is one call too. Without `reject` the first is raised. Raises MachineError for a missing
    extra.
    """
    options, reject = options or Options(), reject or raise_rejected
    name = format_of(part.path, options)
    assert name is not None, f"list_files lets no {part.path} through"
    try:
        yield from map(options.licensed, FORMATS[name].read(part, options, reject))
    except RecordError as error:
        reject(error, "")
    except OSError as error:
        what = f"cannot read: {error.strerror or error}"
        reject(RecordError(what, reason="unreadable", where=part.path), "")


def split_source(
    path: Path, target_bytes: int, *, options: Options | None = None, reject: Reject | None = None
) -> list[Slice]:
    """Slices of about `target_bytes` of a file, or of all files of a folder, in reading order.

    Uncompressed lines are cut at line ends (the file is read once, to number them), Parquet between row groups,
    gzipped WARC between records; other files stay whole. Raises DataError as `list_files` does; `reject` as in
    `read_slice`.
    """
    assert target_bytes > 0, "a slice holds something"
    options, take = options or Options(), reject or raise_rejected
    found: list[Slice] = []
    for file in list_files(path, options=options, reject=reject):
        whole = whole_file(file, path)
        try:
            found += _split_file(whole, target_bytes, options)
        except RecordError as error:
            take(error, "")
        except OSError as error:
            what = f"cannot read: {error.strerror or error}"
            take(RecordError(what, reason="unreadable", where=file), "")
    return found


def group_slices(pieces: Iterable[Slice], target_bytes: int) -> list[tuple[Slice, ...]]:
    """Neighbours together, up to `target_bytes` a group; a larger piece is a group alone."""
    groups: list[list[Slice]] = []
    room = 0
    for piece in pieces:
        size = (piece.path.stat().st_size if piece.end is None else piece.end) - piece.begin
        if not groups or size > room:
            groups.append([])
            room = target_bytes
        groups[-1].append(piece)
        room -= size
    return [tuple(group) for group in groups]


def list_files(path: Path, *, options: Options | None = None, reject: Reject | None = None) -> list[Path]:
    """The files that are read of a source, sorted; hidden ones and `run.json` are passed over.

    `reject` takes links and folders that lead nowhere, as in `everything_in`. Raises DataError if there is no
    such path, or nothing in it that can be read.
    """
    options = options or Options()
    if path.is_file():
        if format_of(path, options) is None:
            raise DataError(f"cannot read a '{path.suffix}' file", where=path, hint=f"use {choices()}")
        return [path]
    if not path.is_dir():
        raise DataError("no such file or folder", where=path)
    found = [file for file in everything_in(path, reject) if format_of(file, options)]
    if not found:
        raise DataError(f"no file to read in this folder (looked for {choices()})", where=path)
    return found


def whole_file(file: Path, source: Path) -> Slice:
    """All of a file that `list_files(source)` found."""
    name = file.relative_to(source.parent).as_posix()
    return Slice(file, name, root=None if file == source else source)


def _split_file(whole: Slice, target_bytes: int, options: Options) -> Sequence[Slice]:
    name = format_of(whole.path, options)
    size = whole.path.stat().st_size
    if size <= target_bytes:
        return [whole]
    if name == "parquet":
        return list(_split_groups(whole, target_bytes))
    if name == "warc":
        return list(split_members(whole, target_bytes))
    plain = whole.path.suffix.lower() not in (".gz", ".zst", ".json")
    return list(_split_lines(whole, target_bytes)) if name in BY_LINES and plain else [whole]


def _split_lines(whole: Slice, target_bytes: int) -> Iterator[Slice]:
    """Cut behind the first line end from each multiple of the target on."""
    begin = offset = 0
    first = line = 1
    with open_bytes(whole.path) as file:
        while block := file.read(BUFFER):
            counted = 0
            while (cut := block.find(b"\n", max(0, begin + target_bytes - 1 - offset), len(block))) >= 0:
                line += block.count(b"\n", counted, cut + 1)
                counted, end = cut + 1, offset + cut + 1
                yield Slice(whole.path, whole.name, begin, end, first, whole.root)
                begin, first = end, line
            line += block.count(b"\n", counted)
            offset += len(block)
    if begin < offset:
        yield Slice(whole.path, whole.name, begin, offset, first, whole.root)


def _split_groups(whole: Slice, target_bytes: int) -> Iterator[Slice]:
    metadata = open_parquet(whole).metadata
    begin, rows, first, size = 0, 0, 1, 0
    for group in range(metadata.num_row_groups):
        size += metadata.row_group(group).total_byte_size
        rows += metadata.row_group(group).num_rows
        if size >= target_bytes or group + 1 == metadata.num_row_groups:
            yield Slice(whole.path, whole.name, begin, group + 1, first, whole.root)
            begin, first, size = group + 1, rows + 1, 0
