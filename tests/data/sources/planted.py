"""Writers of small raw files, and a reader that keeps what is rejected."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luban.data.document import Document
from luban.data.sources import Options, RecordError, read_source

HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=%s\r\n\r\n"


def read(path: Path, **options: Any) -> tuple[list[Document], list[RecordError]]:
    """The documents of a path, and what was rejected."""
    rejected: list[RecordError] = []
    found = list(
        read_source(path, options=Options(**options), reject=lambda error, _: rejected.append(error))
    )
    return found, rejected


def reasons(rejected: list[RecordError]) -> list[str]:
    return [error.reason for error in rejected]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def warc_record(block: bytes, *, kind: str = "response", content_type: str = "", **headers: str) -> bytes:
    content_type = content_type or (
        "application/http; msgtype=response" if kind == "response" else "text/plain"
    )
    lines = {"WARC-Type": kind, "WARC-Date": "2024-05-06T07:08:09Z", "Content-Type": content_type} | {
        key.replace("_", "-"): value for key, value in headers.items()
    }
    head = "".join(f"{key}: {value}\r\n" for key, value in lines.items())
    return f"WARC/1.0\r\n{head}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"


def page(body: str, charset: str = "utf-8", **headers: str) -> bytes:
    return warc_record(HTTP % charset.encode() + body.encode(charset), **headers)


def warc(path: Path, *records: bytes) -> Path:
    """A WARC file; each record is a gzip member of its own if the name ends so."""
    packed = path.suffix == ".gz"
    return write(path, b"".join(gzip.compress(record) if packed else record for record in records))


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()
