"""Web archives: WARC, WET and ARC records become documents, raw HTML or plain text.

A damaged file is read on at the next gzip member that begins a record, so one bad block costs its record only.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import zlib
from collections.abc import Generator, Iterator
from datetime import datetime
from typing import Any, BinaryIO

from luban.data.document import Document, RecordError
from luban.data.sources.charset import declared_in, to_text
from luban.data.sources.opening import AGAIN, missing_extra, too_large
from luban.data.sources.reading import Options, Reject, Slice, known, shown

HTML = ("text/html", "application/xhtml+xml")
LOOKS_LIKE_HTML = re.compile(rb"\s*<(?:!doctype html|html|head|body)\b", re.IGNORECASE)
MEMBER = b"\x1f\x8b\x08"
BEGINS = re.compile(rb"\x1f\x8b\x08|WARC/1\.[01]\r\n")
WINDOW, PREVIEW = 1 << 20, 4096
TWO_LETTERS = {
    "eng": "en", "zho": "zh", "deu": "de", "fra": "fr", "spa": "es", "rus": "ru", "jpn": "ja", "ita": "it",
    "por": "pt", "pol": "pl", "nld": "nl", "tur": "tr", "vie": "vi", "kor": "ko", "ara": "ar", "fas": "fa",
    "ces": "cs", "ukr": "uk", "ell": "el", "ron": "ro", "swe": "sv", "hun": "hu", "dan": "da", "fin": "fi",
    "nor": "no", "bul": "bg", "slk": "sk", "hrv": "hr", "srp": "sr", "slv": "sl", "heb": "he", "hin": "hi",
    "ind": "id", "tha": "th", "cat": "ca", "lit": "lt", "lav": "lv", "est": "et", "ben": "bn", "tam": "ta",
    "msa": "ms", "urd": "ur", "lat": "la", "isl": "is", "glg": "gl",
}  # fmt: skip
"""The archive's language codes (ISO 639-3) by ours, for languages common on the web."""


def read_warc(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """The pages of a WARC (responses and resources) or WET (conversions), named `file:byte offset`.

    HTML keeps its markup, plain text is as it is; other content, and statuses but 200, are rejected as
    `content_type` and `http_status`. Records about records (requests, metadata) are not read.
    """
    for record, start in _records(part, reject):
        where = f"{part.path} at byte {start}"
        shows = str(record.headers.get("WARC-Target-URI") or "")
        try:
            body = _checked_body(record, options, where)
            yield _page(record, body, start, where, part)
        except RecordError as error:
            reject(error, shown(shows))


def _page(record: Any, body: bytes, start: int, where: str, part: Slice) -> Document:
    headers = record.headers
    kind, charset = _content_type(record)
    if not kind or kind == "application/octet-stream":
        kind = "text/html" if LOOKS_LIKE_HTML.match(body) else kind
    if kind not in (*HTML, "text/plain"):
        raise RecordError(f"content is {kind or 'of no stated type'}", reason="content_type", where=where)
    text, encoding = to_text(body, where, charset or (declared_in(body) if kind in HTML else None))
    return Document(
        id=f"{part.name}:{start}",
        text=text,
        source=part.name,
        meta=known(
            url=(headers.get("WARC-Target-URI") or "").strip("<> "),
            date=_iso(record.record_date),
            language=_language(headers.get("WARC-Identified-Content-Language")),
            content_type="text/html" if kind in HTML else kind,
            encoding=None if encoding == "utf-8" else encoding,
            truncated=headers.get("WARC-Truncated"),
        )
        | {"offset": start},
    )


def _iso(date: datetime | None) -> str | None:
    return date.strftime("%Y-%m-%dT%H:%M:%SZ") if date else None


def _language(codes: str | None) -> str | None:
    """The first language that the archive names, which is the most frequent on the page."""
    first = (codes or "").partition(",")[0].strip()
    return TWO_LETTERS.get(first, first) or None


def _content_type(record: Any) -> tuple[str, str | None]:
    if record.http_headers is not None:
        return (record.http_content_type or "").lower(), record.http_charset
    kind, _, rest = (record.headers.get("Content-Type") or "").partition(";")
    return kind.strip().lower(), rest.partition("charset=")[2].strip("\"' ") or None


def _checked_body(record: Any, options: Options, where: str) -> bytes:
    """The record's content without its transfer and content encodings, all of it or RecordError."""
    http = record.http_headers
    if http is None and record.is_http:
        raise RecordError("a response without HTTP headers", reason="no_http_head", where=where)
    if http is not None and http.status_code != 200:
        raise RecordError(f"HTTP status {http.status_code}", reason="http_status", where=where)
    length = record.content_length
    if length > options.max_record_bytes:
        raise too_large(f"the record of {length:,} bytes", options, where)
    raw = record.reader.read(length)
    if len(raw) < length:
        what = f"the file ends within a record: {len(raw):,} of {length:,} bytes"
        raise RecordError(what, reason="truncated", where=where, hint=AGAIN)
    if http is None:
        return raw
    if "chunked" in (http.get("Transfer-Encoding") or "").lower():
        raw = _joined(raw)
    return _unpacked((http.get("Content-Encoding") or "").lower(), raw, options, where)


def _joined(raw: bytes) -> bytes:
    """The content of a chunked body; archives often say chunked of a body that is not, which stays."""
    chunks, place = [], 0
    while found := re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]{0,99}\r\n").match(raw, place):
        size, place = int(found[1], 16), found.end()
        if not size:
            return b"".join(chunks)
        chunks.append(raw[place : place + size])
        place += size + 2
    return raw


def _unpacked(coding: str, raw: bytes, options: Options, where: str) -> bytes:
    """The content decoded; archives often keep the header of a coding that they have already undone."""
    if coding in ("", "identity") or (coding == "gzip" and not raw.startswith(MEMBER)):
        return raw
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise RecordError(f"Content-Encoding is {coding}", reason="content_encoding", where=where)
    wrapped = coding != "deflate" or raw[:1] == b"\x78"
    decoder = zlib.decompressobj(47 if wrapped else -15)
    try:
        content = decoder.decompress(raw, options.max_record_bytes)
    except zlib.error as error:
        raise RecordError(f"broken {coding} content: {error}", reason="broken_gzip", where=where) from None
    if decoder.unconsumed_tail:
        raise too_large("the unpacked page", options, where)
    return content


def _records(part: Slice, reject: Reject) -> Iterator[tuple[Any, int]]:
    """Records that begin in the slice, with their byte offset; after damage, on from the next that can be read."""
    with part.path.open("rb") as file:
        begin: int | None = _next_record(file, part.begin) if part.begin else 0
        while begin is not None and not _is_behind(begin, part):
            begin = yield from _undamaged(file, begin, part, reject)


def _is_behind(offset: int, part: Slice) -> bool:
    return part.end is not None and offset >= part.end


def split_members(whole: Slice, target_bytes: int) -> Iterator[Slice]:
    """Slices of a WARC whose records are gzip members of their own, as the standard asks; else the whole file.

    They are of equal size, up to the target: a small one at the end would keep one worker busy and the others idle.
    """
    size = whole.path.stat().st_size
    with whole.path.open("rb") as file:
        second = _next_record(file, 1) if file.read(len(MEMBER)) == MEMBER else None
    if second is None:
        yield whole
        return
    count = -(-size // target_bytes)
    edges = [size * index // count for index in range(count + 1)]
    for begin, end in itertools.pairwise(edges):
        yield dataclasses.replace(whole, begin=begin, end=end)


def _undamaged(
    file: BinaryIO, begin: int, part: Slice, reject: Reject
) -> Generator[tuple[Any, int], None, int | None]:
    """Records from `begin` to the next damage; returns where to go on behind it, None at the end."""
    try:
        from fastwarc.warc import ArchiveIterator, WarcRecordType
    except ModuleNotFoundError:
        raise missing_extra("reading WARC", part.path) from None
    kinds = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
    file.seek(begin)
    last = begin
    try:
        for record in ArchiveIterator(file, record_types=kinds, auto_decode="none"):
            last = record.stream_pos
            if _is_behind(last, part):
                return None
            yield record, last
        why = _unfinished(file, last)
    except OSError as error:
        why = f"broken record: {error}"
    if why is None:
        return None
    if last > begin or begin == 0:  # else the record behind the damage is damaged too: told already
        where = f"{part.path} at or after byte {last}"
        reject(RecordError(why, reason="broken_gzip", where=where, hint=AGAIN), "")
    return _next_record(file, last + 1)


def _unfinished(file: BinaryIO, start: int) -> str | None:
    """Why the gzip members from the last record on do not end where the file does; None if they do."""
    file.seek(start)
    if file.read(len(MEMBER)) != MEMBER:
        return None
    file.seek(start)
    decoder, coming = zlib.decompressobj(31), b""
    while chunk := coming or file.read(WINDOW):
        if decoder.eof:
            decoder = zlib.decompressobj(31)
        try:
            while decoder.decompress(chunk, WINDOW):
                chunk = decoder.unconsumed_tail
        except zlib.error as error:
            return f"broken gzip: {error}"
        coming = decoder.unused_data
    return None if decoder.eof else "the file ends within a record"


def _next_record(file: BinaryIO, start: int) -> int | None:
    """Where the next record begins, gzipped by itself or not at all, from byte `start` on."""
    file.seek(start)
    base, window = start, file.read(WINDOW)
    while window:
        for found in BEGINS.finditer(window):
            if _begins_record(window[found.start() : found.start() + PREVIEW]):
                return base + found.start()
        more = file.read(WINDOW)
        kept = window[-PREVIEW:] if more else b""
        base, window = base + len(window) - len(kept), kept + more
    return None


def _begins_record(raw: bytes) -> bool:
    if not raw.startswith(MEMBER):
        return True
    try:
        return zlib.decompressobj(31).decompress(raw, 16).startswith(b"WARC/1.")
    except zlib.error:
        return False
