"""Opens files for readers: decompressed by suffix, bounded in size, each failure named.

Damaged compression raises only after all that precedes it was given, so a reader of records loses no whole one.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

from luban.data.document import RecordError, decode
from luban.data.sources.reading import Options, Reject, Slice, shown
from luban.errors import DataError, MachineError

COMPRESSED = (".gz", ".zst")
INNOCENT = 64 << 20
"""Bytes that any file may unpack to, however small it is."""
BUFFER = 1 << 18
AGAIN = "copy or download it again"
BOM = b"\xef\xbb\xbf"

if TYPE_CHECKING:
    Bytes = io.BufferedReader[io.RawIOBase]


def suffix(path: Path) -> str:
    """The suffix that tells the content: `.jsonl` of `a.jsonl.gz`."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSED else path.suffix.lower()


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The file as UTF-8 text, decompressed by its suffix; lines end at `\\n` only, a BOM is left out.

    Raises DataError (missing, broken compression, not UTF-8: with line and byte), MachineError (`.zst` needs
    an extra).
    """
    try:
        with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="\n") as text:
            yield text
    except UnicodeDecodeError:
        _raise_at_undecodable(path)


@contextlib.contextmanager
def open_bytes(path: Path, *, max_ratio: float = Options.max_ratio) -> Iterator[Bytes]:
    """The file's bytes, decompressed by its suffix; raises as `open_text` does, and for a bomb."""
    if not path.is_file():
        raise RecordError("no such file", reason="unreadable", where=path)
    try:
        with path.open("rb", buffering=0) as raw, _buffered(raw, path, max_ratio) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = f"broken gzip: {error}".rstrip(".")
        raise RecordError(what, reason="broken_gzip", where=path, hint=AGAIN) from None


def read_whole(path: Path, options: Options) -> bytes:
    """All bytes of a file that is one document; raises RecordError (`too_large`) before it fills the memory."""
    with open_bytes(path, max_ratio=options.max_ratio) as file:
        return bounded(file, options, path)


def bounded(file: Any, options: Options, where: object) -> bytes:
    """All bytes of an open file; raises RecordError (`too_large`) as soon as they are too many."""
    raw = file.read(options.max_record_bytes + 1)
    if len(raw) > options.max_record_bytes:
        raise too_large("the file", options, where)
    return raw


def too_large(what: str, options: Options, where: object) -> RecordError:
    limit = f"{options.max_record_bytes:,} bytes (max_record_bytes)"
    return RecordError(f"{what} is longer than {limit}", reason="too_large", where=where)


def lines(
    file: Any, part: Slice, options: Options, reject: Reject, *, blank: bool = False
) -> Iterator[tuple[int, int, bytes]]:
    """Number, byte offset and content of each line of a slice, without its end; one too long is rejected.

    `file` stands at the slice's beginning. Lines without content are left out unless `blank`.
    """
    limit, number, offset = options.max_record_bytes, part.first, part.begin
    end = part.end if part.end is not None else 1 << 63
    while offset < end and (raw := file.readline(limit + 2)):
        size = len(raw)
        line = raw.rstrip(b"\r\n") if offset else raw.removeprefix(BOM).rstrip(b"\r\n")
        if len(line) > limit:
            size += _skip_line(file, raw)
            where = f"{part.path}:{number}"
            reject(too_large(f"the line of {size:,} bytes at byte {offset:,}", options, where), shown(line))
        elif blank or line.strip():
            yield number, offset, line
        number, offset = number + 1, offset + size


def _skip_line(file: Any, read: bytes) -> int:
    """Read to the end of the line that `read` began; returns the bytes passed over."""
    passed = 0
    while read and not read.endswith(b"\n"):
        read = file.readline(BUFFER)
        passed += len(read)
    return passed


def _raise_at_undecodable(path: Path) -> None:
    """Read again, line by line, to say where; only a file that has already failed is read twice."""
    with open_bytes(path) as file:
        for number, raw in enumerate(file, 1):
            decode(raw, f"{path}:{number}")
    raise AssertionError(f"{path} failed to decode, but each of its lines does")


def _buffered(raw: io.FileIO, path: Path, max_ratio: float) -> Bytes:
    if path.suffix.lower() not in (*COMPRESSED, ".tgz"):
        return io.BufferedReader(cast(io.RawIOBase, raw), BUFFER)
    source = _Unpacked(raw, path, max_ratio)
    return io.BufferedReader(source, BUFFER)


class _Unpacked(io.RawIOBase):
    """The content of a compressed file, as long as it stays in proportion to what was read for it."""

    def __init__(self, raw: io.FileIO, path: Path, max_ratio: float) -> None:
        self._raw, self._path, self._ratio, self._given = raw, path, max_ratio, 0
        gzipped = path.suffix.lower() in (".gz", ".tgz")
        self._source: Any = gzip.GzipFile(fileobj=raw) if gzipped else _Zstd(raw, path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._source.readinto(buffer) or 0
        self._given += count
        if self._given > INNOCENT and self._given > self._ratio * self._raw.tell():
            what = f"unpacks to more than {self._ratio:g} times its size (max_ratio): stopped here"
            raise RecordError(what, reason="bomb", where=self._path)
        return count


class _Zstd(io.RawIOBase):
    """The content of one or more zstd frames. The library's own reader takes a file cut short for its end."""

    def __init__(self, raw: BinaryIO | io.FileIO, path: Path) -> None:
        try:
            import zstandard
        except ModuleNotFoundError:
            raise missing_extra("reading .zst", path) from None
        self._library, self._raw, self._path = zstandard, raw, path
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._frame: Any = None
        self._coming, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._ready:
            chunk = self._coming or self._raw.read(1 << 16)
            if not chunk and self._frame is None:
                return 0
            if not chunk:
                raise self._broken("the file ends too early")
            self._ready = memoryview(self._decompress(chunk))
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _decompress(self, chunk: bytes) -> bytes:
        frame = self._frame or self._decompressor.decompressobj()
        try:
            content = frame.decompress(chunk)
        except self._library.ZstdError as error:
            raise self._broken(str(error)) from None
        self._coming, self._frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        return content

    def _broken(self, why: str) -> DataError:
        return RecordError(f"broken zstd: {why}", reason="broken_zstd", where=self._path, hint=AGAIN)


def missing_extra(what: str, where: object) -> MachineError:
    """The error for a library of the `data` extra that is not installed."""
    return MachineError(f"{what} needs an extra", where=where, hint="pip install 'luban[data]'")
