"""JSON rows become documents: one per line, or a `.json` file that is one long list."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from luban.data.document import Document, RecordError
from luban.data.sources.opening import BOM, BUFFER, lines, open_bytes, suffix, too_large
from luban.data.sources.reading import Options, Reject, Slice, shown

SEPARATORS = re.compile(r"[ \t\r\n,]*")
DECODER = json.JSONDecoder()


def read_rows(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """One document per JSON line; an id that a row lacks becomes `file:line`."""
    with open_bytes(part.path, max_ratio=options.max_ratio) as file:
        if suffix(part.path) == ".json" and file.peek(64).removeprefix(BOM).lstrip()[:1] == b"[":
            yield from _read_list(file, part, options, reject)
            return
        if part.begin:
            file.seek(part.begin)
        place = str(part.path)
        for number, _, line in lines(file, part, options, reject):
            if document := _accepted(line, number, f"{place}:{number}", part, options, reject):
                yield document


def read_lines(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """One document per line of plain text, named `file:line`, with its byte offset."""
    from luban.data.sources.charset import to_text

    with open_bytes(part.path, max_ratio=options.max_ratio) as file:
        if part.begin:
            file.seek(part.begin)
        for number, offset, line in lines(file, part, options, reject):
            where = f"{part.path}:{number}"
            try:
                text, _ = to_text(line, where)
            except RecordError as error:
                reject(error, shown(line))
                continue
            yield Document(id=f"{part.name}:{number}", text=text, source=part.name, meta={"offset": offset})


def _accepted(
    line: str | bytes, number: int, where: str, part: Slice, options: Options, reject: Reject
) -> Document | None:
    """The document in one row's JSON; a malformed one goes to `reject`."""
    try:
        document = Document.from_json(
            line, where=where, name=f"{part.name}:{number}", text_key=options.text_key
        )
    except RecordError as error:
        reject(error, shown(line))
        return None
    return options.renamed(document)


def _read_list(file: Any, part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """The documents of a list, row by row; nothing after a row that is not JSON can be found again."""
    for number, row in enumerate(_list_rows(file, part, options), 1):
        where = f"{part.path} row {number}"
        if document := _accepted(row, number, where, part, options, reject):
            yield document


def _list_rows(file: Any, part: Slice, options: Options) -> Iterator[str]:
    """The JSON of each value in a list, with no more than one of them in memory."""
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    where = f"{part.path} row 1"
    window, step, ended, number = _decoded(utf8, file.read(BUFFER), where).lstrip(), BUFFER, False, 1
    start = len("[")
    while True:
        start = SEPARATORS.match(window, start).end()  # type: ignore[union-attr] - it also matches nothing
        if window.startswith("]", start):
            return
        end = _value_end(window, start, ended, where)
        if end is not None:
            yield window[start:end]
            start, step, number = end, BUFFER, number + 1
            where = f"{part.path} row {number}"
            continue
        if len(window) - start > options.max_record_bytes:
            raise too_large("a row", options, where)
        chunk = file.read(step)
        window, start = window[start:] + _decoded(utf8, chunk, where), 0
        ended, step = not chunk, 2 * step


def _decoded(utf8: codecs.IncrementalDecoder, chunk: bytes, where: str) -> str:
    try:
        return utf8.decode(chunk, not chunk)
    except UnicodeDecodeError as error:
        what = f"at or after this row: not UTF-8 ({error.reason})"
        raise RecordError(what, reason="bad_encoding", where=where) from None


def _value_end(window: str, start: int, ended: bool, where: str) -> int | None:
    """Where the value at `start` ends; None if more of the file is needed to tell."""
    try:
        _, end = DECODER.raw_decode(window, start)
    except json.JSONDecodeError as error:
        if ended:
            raise RecordError(f"not valid JSON: {error.msg}", reason="bad_json", where=where) from None
        return None
    except RecursionError:
        raise RecordError("nested too deeply", reason="too_deep", where=where) from None
    return end if ended or end < len(window) else None
