"""ARC, the format before WARC: a line of five words before each page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from luban.data.document import Document, RecordError
from luban.data.sources.charset import declared_in, to_text
from luban.data.sources.opening import AGAIN, BUFFER, open_bytes, too_large
from luban.data.sources.reading import Options, Reject, Slice, known, shown

HEADER = re.compile(rb"(\S+) (\S+) (\d{14}) (\S+) (?:.* )?(\d+)\r?\n$")
STATUS = re.compile(rb"HTTP/\d\.\d (\d{3})[^\n]*\n")
CHARSET = re.compile(rb"^content-type:[^\n]*charset=[\"']?([\w.:-]+)", re.IGNORECASE | re.MULTILINE)


def read_arc(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """The HTML and plain text pages of an ARC file, as `read_warc` gives them; `offset` is after unpacking.

    Source: Internet Archive, Arc File Format 1.0 (1996).
    """
    with open_bytes(part.path, max_ratio=options.max_ratio) as file:
        for found, start in _headers(file, part):
            where = f"{part.path} at byte {start}"
            if found[1].startswith(b"filedesc:"):  # the archive's own description
                _body(file, int(found[5]), options, where)
                continue
            try:
                yield _page(found, _body(file, int(found[5]), options, where), start, where, part)
            except RecordError as error:
                reject(error, shown(found[0]))


def _headers(file: Any, part: Slice) -> Iterator[tuple[re.Match[bytes], int]]:
    """Header line and offset of each record; who takes one reads its body before the next."""
    offset = 0
    while line := file.readline(BUFFER):
        start, offset = offset, offset + len(line)
        if not line.strip():
            continue
        found = HEADER.match(line)
        if found is None:
            where = f"{part.path} at byte {start}"
            raise RecordError("not a record's header line", reason="broken_file", where=where)
        yield found, start
        offset += int(found[5])


def _body(file: Any, length: int, options: Options, where: str) -> bytes:
    if length > options.max_record_bytes:
        left = length
        while left and (chunk := file.read(min(left, BUFFER))):
            left -= len(chunk)
        raise too_large(f"the record of {length:,} bytes", options, where)
    raw = file.read(length)
    if len(raw) < length:
        raise RecordError("the file ends within a record", reason="truncated", where=where, hint=AGAIN)
    return raw


def _page(found: re.Match[bytes], raw: bytes, start: int, where: str, part: Slice) -> Document:
    kind = found[4].decode("ascii", "replace").lower()
    if kind not in ("text/html", "text/plain"):
        raise RecordError(f"content is {kind}", reason="content_type", where=where)
    charset = None
    if status := STATUS.match(raw):
        if status[1] != b"200":
            raise RecordError(f"HTTP status {int(status[1])}", reason="http_status", where=where)
        head, *rest = re.split(rb"\r?\n\r?\n", raw, maxsplit=1)
        charset, raw = CHARSET.search(head), b"".join(rest)
    declared = charset[1].decode("ascii", "replace") if charset else declared_in(raw)
    text, encoding = to_text(raw, where, declared)
    date = datetime.strptime(found[3].decode(), "%Y%m%d%H%M%S")
    meta = known(
        url=found[1].decode("utf-8", "replace"),
        date=f"{date:%Y-%m-%dT%H:%M:%SZ}",
        content_type=kind,
        encoding=None if encoding == "utf-8" else encoding,
    )
    return Document(id=f"{part.name}:{start}", text=text, source=part.name, meta=meta | {"offset": start})
