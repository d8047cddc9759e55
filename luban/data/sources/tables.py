"""Parquet, CSV and TSV: a row is a document, one column its text, the others what is known of it."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from typing import Any

from luban.data.document import Document, RecordError, decode
from luban.data.sources.opening import lines, missing_extra, open_bytes, suffix, too_large
from luban.data.sources.plain import plain
from luban.data.sources.reading import Options, Reject, Slice, shown
from luban.errors import nearest

BATCH_ROWS = 64


def read_parquet(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """The rows of some row groups, a few at a time; an id that a row lacks becomes `file:row`."""
    file = open_parquet(part)
    _require_column(file.schema_arrow.names, options, part)
    groups = range(part.begin, file.num_row_groups if part.end is None else part.end)
    number = part.first
    for group in groups:
        rows = file.metadata.row_group(group).num_rows
        try:
            yield from _parquet_rows(file, group, number, part, options, reject)
        except (OSError, ValueError) as error:
            if isinstance(error, RecordError):
                raise
            where = f"{part.path} row group {group}"
            reject(RecordError(f"broken Parquet: {error}", reason="broken_file", where=where), "")
        number += rows


def open_parquet(part: Slice) -> Any:
    """The opened file (pyarrow); raises RecordError if it is cut short or no Parquet."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise missing_extra("reading .parquet", part.path) from None
    try:
        return parquet.ParquetFile(part.path, memory_map=False, pre_buffer=False)
    except arrow.ArrowInvalid as error:
        raise RecordError(f"broken Parquet: {error}", reason="broken_file", where=part.path) from None


def read_table(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """The rows of a UTF-8 CSV or TSV file with a header; a quoted field may hold line ends."""
    # The module has one limit for all; a field can only be as long as the record it stands in.
    csv.field_size_limit(options.max_record_bytes)
    lost: list[RecordError] = []

    def lose(error: RecordError, begins: str) -> None:
        lost.append(error)
        reject(error, begins)

    with open_bytes(part.path, max_ratio=options.max_ratio) as file:
        fields = _decoded(lines(file, part, options, lose, blank=True), lose, part)
        rows = csv.reader(fields, delimiter="\t" if suffix(part.path) == ".tsv" else ",")
        header = next(rows, [])
        _require_column(header, options, part)
        for number, where, row in _whole_rows(rows, part, reject):
            if lost or len(row) != len(header):
                what = "beside a rejected line" if lost else f"{len(row)} columns, not {len(header)}"
                reject(RecordError(f"row {what}", reason="bad_row", where=where), shown(repr(row)))
                lost.clear()
                continue
            yield _document(dict(zip(header, row, strict=True)), number, where, part, options)


def _parquet_rows(
    file: Any, group: int, number: int, part: Slice, options: Options, reject: Reject
) -> Iterator[Document]:
    batches = file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group])
    for row in itertools.chain.from_iterable(batch.to_pylist() for batch in batches):
        where, text = f"{part.path} row {number}", row.get(options.text_key)
        try:
            if isinstance(text, str) and len(text.encode("utf-8")) > options.max_record_bytes:
                raise too_large("the text", options, where)
            yield _document(row, number, where, part, options)
        except RecordError as error:
            reject(error, shown(str(text)))
        number += 1


def _document(row: dict[str, Any], number: int, where: str, part: Slice, options: Options) -> Document:
    values = {
        key: value for key, value in plain(row).items() if value not in (None, "") or key == options.text_key
    }
    document = Document.from_row(values, where=where, name=f"{part.name}:{number}", text_key=options.text_key)
    return options.renamed(document)


def _require_column(names: list[str], options: Options, part: Slice) -> None:
    if options.text_key not in names:
        what = f"no column '{options.text_key}'; {nearest(options.text_key, names)}"
        raise RecordError(what, reason="missing_column", where=part.path, hint="--text-key COLUMN")


def _decoded(numbered: Iterator[tuple[int, int, bytes]], reject: Reject, part: Slice) -> Iterator[str]:
    for number, _, line in numbered:
        try:
            yield decode(line, f"{part.path}:{number}") + "\n"
        except RecordError as error:
            reject(error, shown(line))


def _whole_rows(rows: Any, part: Slice, reject: Reject) -> Iterator[tuple[int, str, list[str]]]:
    """Number, place and fields of each row that can be parsed."""
    number = 0
    while True:
        number += 1
        where = f"{part.path}:{rows.line_num + 1}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            reject(RecordError(f"not valid CSV: {error}", reason="bad_row", where=where), "")
            continue
        if row:
            yield number, where, row
