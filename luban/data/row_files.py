"""Files of rows as JSON values, each with the place it stood at: the first step of all that is tuned on.

    .jsonl .ndjson   a row per line              .csv .tsv   records below a header; the delimiter is found out
    .json            a list, or a row per line   .parquet    rows of columns
    .txt             a text per line             a folder    all such files in it, in sorted order

All but Parquet may also be `.gz` or `.zst`. One row that is wrong leaves the others readable, so it is handed on
with its fault. A file that is wrong (empty, cut short, not UTF-8) is an error: what it lost cannot be told.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luban.data.sources import Slice, open_text
from luban.data.sources.opening import suffix
from luban.data.sources.plain import plain
from luban.errors import DataError
from luban.folder import RUN_FILE

DELIMITERS = ",;\t|"
LONGEST_FIELD = 64 << 20
BATCH_ROWS = 256
BETWEEN = re.compile(r"[\s,]*")
DECODER = json.JSONDecoder()
ASIDE = ("rejected", "holdout", "quarantine", "undecided")
"""Files of a folder whose names begin so are not rows to learn."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row before anyone has judged its keys."""

    where: str
    """File and line (in Parquet the row's number)."""
    value: Any
    """Its JSON value, or its text if there is a `fault`."""
    fault: DataError | None = None

    def sound(self) -> Any:
        """The value; raises the fault if there is one."""
        if self.fault:
            raise self.fault
        return self.value


def read_raw(path: Path) -> Iterator[RawRow]:
    """The rows of a file or folder.

    Raises DataError for a missing, empty or damaged file, one that is not UTF-8 (line and byte), and a suffix that
    names no format.
    """
    for file in row_paths(path):
        rows = READERS[suffix(file)](file)
        first = next(rows, None)
        if first is None:
            raise DataError("there are no rows in this file", where=file)
        yield first
        yield from rows


def row_paths(path: Path) -> list[Path]:
    """The files of rows a path stands for; raises DataError if there are none."""
    if path.is_dir():
        named = [file for file in sorted(path.iterdir()) if suffix(file) in READERS and file.name != RUN_FILE]
        found = [file for file in named if not file.name.startswith((".", *ASIDE))]
        if not found:
            raise DataError(f"no files of rows in this folder ({', '.join(READERS)})", where=path)
        return found
    if not path.is_file():
        raise DataError("no such file or folder", where=path)
    if suffix(path) not in READERS:
        hint = f"a file of {', '.join(READERS)}"
        raise DataError(f"rows cannot be read from '{suffix(path) or path.name}'", where=path, hint=hint)
    return [path]


def _read_lines(path: Path) -> Iterator[RawRow]:
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parsed(line, f"{path}:{number}")


def _read_json(path: Path) -> Iterator[RawRow]:
    with open_text(path) as file:
        text = file.read()
    start = BETWEEN.match(text).end()  # type: ignore[union-attr] - it also matches nothing
    if text[start : start + 1] != "[":
        return _read_lines(path)
    return _listed(text, start + 1, path)


def _listed(text: str, start: int, path: Path) -> Iterator[RawRow]:
    """The values of the list that begins before `start`; after one that is damaged none can be found."""
    line, counted = 1, 0
    for number in itertools.count(1):
        start = BETWEEN.match(text, start).end()  # type: ignore[union-attr] - it also matches nothing
        if text.startswith("]", start):
            return
        line, counted = line + text.count("\n", counted, start), start
        where = f"{path}:{line} row {number}"
        try:
            value, start = DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            hint = "all rows of a .json list must be valid; in .jsonl a wrong one leaves the others readable"
            raise DataError(
                f"not valid JSON: {error.msg} (line {error.lineno})", where=where, hint=hint
            ) from None
        yield RawRow(where, value)


def _read_text(path: Path) -> Iterator[RawRow]:
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield RawRow(f"{path}:{number}", {"text": line.strip()})


def _read_table(path: Path) -> Iterator[RawRow]:
    """Records as objects of texts; one with too few or too many fields is at fault."""
    csv.field_size_limit(LONGEST_FIELD)
    taken: list[str] = []  # the lines of the record at hand, as they were
    with open_text(path) as file:
        head = file.readline()
        lines = (taken.append(line) or line for line in itertools.chain([head] if head else [], file))
        records = csv.reader(lines, delimiter=_delimiter(head, path), strict=True)
        header = _header(records, path)
        while True:
            taken.clear()
            where = f"{path}:{records.line_num + 1}"
            try:
                record = next(records, None)
            except csv.Error as error:
                yield _broken_record("".join(taken), str(error), where)
                continue
            if record is None:
                return
            if len(record) == len(header):
                yield RawRow(where, dict(zip(header, record, strict=True)))
            elif record:
                what = f"{len(record)} columns, not {len(header)} as in the header"
                yield RawRow(where, "".join(taken), DataError(what, where=where))


def _delimiter(head: str, path: Path) -> str:
    """The delimiter in the header line, where no free text can mislead; a single column has none."""
    if suffix(path) == ".tsv":
        return "\t"
    try:
        return csv.Sniffer().sniff(head, delimiters=DELIMITERS).delimiter
    except csv.Error:
        return ","


def _header(records: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = [name.strip() for name in next(records, [])]
    except csv.Error as error:
        raise DataError(f"the header is not valid CSV: {error}", where=path) from None
    if len(set(header)) < len(header) or "" in header[:-1]:
        raise DataError(f"the header has a name twice or an empty one: {', '.join(header)}", where=path)
    return header


def _broken_record(text: str, reason: str, where: str) -> RawRow:
    if "unexpected end of data" in reason:
        raise DataError("a quote that opens here is never closed", where=where)
    return RawRow(where, text, DataError(f"not valid CSV: {reason}", where=where))


def _read_parquet(path: Path) -> Iterator[RawRow]:
    from luban.data.sources.tables import open_parquet

    batches = open_parquet(Slice(path, path.name)).iter_batches(batch_size=BATCH_ROWS)
    rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
    for number in itertools.count(1):
        where = f"{path} row {number}"
        try:
            row = next(rows, None)
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            raise DataError(f"broken Parquet: {error}", where=where) from None
        if row is None:
            return
        yield RawRow(where, _without_nulls(plain(row)))


def _without_nulls(value: Any) -> Any:
    """The value without entries that are null: a column gives every object all keys that any of them has."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _parsed(line: str, where: str) -> RawRow:
    try:
        return RawRow(where, json.loads(line))
    except json.JSONDecodeError as error:
        what = f"not valid JSON: {error.msg} at column {error.colno}"
    except RecursionError:
        what = "not a row: nested too deeply"
    return RawRow(where, line.rstrip("\r\n"), DataError(what, where=where))


READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
