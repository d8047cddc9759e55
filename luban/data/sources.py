"""Files of any accepted kind become a stream of documents: the first room of the house.

`read_source` takes raw input (JSON lines, plain text, folders of both, compressed or not); `read_documents`
takes what Luban wrote. A malformed row is an error that names file and line, unless the caller takes it.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from luban.data.document import Document
from luban.errors import DataError, MachineError
from luban.folder import RUN_FILE

ROWS = (".jsonl", ".ndjson", ".json")
TEXT = (".txt", ".md")
COMPRESSED = (".gz", ".zst")
HOLDOUT = "holdout.jsonl"
ASIDE = ("holdout", "quarantine")
"""Files of a documents folder whose names begin so are not training text."""
BOM = b"\xef\xbb\xbf"

Reject = Callable[[DataError, str], None]
"""Takes a malformed row: why, and the line itself."""


def read_source(path: Path, *, text_key: str = "text", reject: Reject | None = None) -> Iterator[Document]:
    """The documents of a raw file, or of all readable files under a folder in sorted order.

    A `.txt` or `.md` file is one document; each JSON row is one, with its text under `text_key`. An id that a
    row lacks becomes `file:line`. A malformed row goes to `reject`, or raises DataError without one. Raises
    DataError for a missing path, a folder with nothing to read, an unknown suffix, broken compression, and
    bytes that are not UTF-8.
    """
    for file in list_files(path):
        name = file.relative_to(path.parent).as_posix()
        if _suffix(file) in TEXT:
            with open_text(file) as opened:
                yield Document(id=f"{name}:1", text=opened.read(), source=name)
        else:
            yield from _read_rows(file, name=name, text_key=text_key, reject=reject)


def read_documents(paths: Sequence[Path], *, holdout: bool = False) -> Iterator[Document]:
    """The documents in Luban's own folders and files: of a folder the training part, or with `holdout` that.

    Raises DataError for a missing path, a folder without documents, and malformed rows (file:line).
    """
    for path in paths:
        for file in _document_files(path, holdout):
            yield from _read_rows(file, name=file.name, text_key="text", reject=None)


def list_files(path: Path) -> list[Path]:
    """The files that `read_source(path)` reads, sorted; hidden ones and `run.json` are passed over."""
    if path.is_file():
        if not _readable(path):
            raise DataError(f"cannot read a '{path.suffix}' file", where=path, hint=f"use {_choices()}")
        return [path]
    if not path.is_dir():
        raise DataError("no such file or folder", where=path)
    found = [file for file in everything_in(path) if _readable(file)]
    if not found:
        raise DataError(f"no file to read in this folder (looked for {_choices()})", where=path)
    return found


def everything_in(path: Path) -> list[Path]:
    """All files under a folder, sorted, but for hidden ones and `run.json`; a file stands for itself."""
    if path.is_file():
        return [path]
    files = (file for file in path.rglob("*") if file.is_file() and file.name != RUN_FILE)
    return sorted(f for f in files if not any(part.startswith(".") for part in f.relative_to(path).parts))


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
def open_bytes(path: Path) -> Iterator[io.BufferedReader[io.RawIOBase]]:
    """The file's bytes, decompressed by its suffix; raises as `open_text` does."""
    if not path.is_file():
        raise DataError("no such file", where=path)
    try:
        with path.open("rb") as raw, io.BufferedReader(_decompressed(raw, path), 1 << 18) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"broken gzip: {error}".rstrip("."), where=path, hint="copy or download it again"
        ) from None


def decode(raw: bytes, where: object) -> str:
    """`raw` as UTF-8; raises DataError naming the first wrong byte and where it stands."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{raw[error.start]:02x} at column {error.start + 1} is not UTF-8"
        hint = "convert the file, e.g. `iconv -f GB18030 -t UTF-8` (Chinese) or `-f CP1252` (Western)"
        raise DataError(wrong, where=where, hint=hint) from None


def _read_rows(path: Path, *, name: str, text_key: str, reject: Reject | None) -> Iterator[Document]:
    with open_bytes(path) as file:
        if _suffix(path) == ".json" and file.peek(64).removeprefix(BOM).lstrip()[:1] == b"[":
            yield from _read_list(file.read(), path, name=name, text_key=text_key, reject=reject)
            return
        for number, raw in enumerate(file, 1):
            line = (raw.removeprefix(BOM) if number == 1 else raw).rstrip(b"\r\n")
            if not line.strip():
                continue
            where, own_name = f"{path}:{number}", f"{name}:{number}"

            def read(line: bytes = line, where: str = where, own_name: str = own_name) -> Document:
                return Document.from_json(decode(line, where), where=where, name=own_name, text_key=text_key)

            if document := _accepted(read, line.decode("utf-8", "backslashreplace"), reject):
                yield document


def _accepted(read: Callable[[], Document], shown: str, reject: Reject | None) -> Document | None:
    """What `read` gives; a malformed row goes to `reject` as it was `shown`, or raises without one."""
    try:
        return read()
    except DataError as error:
        if reject is None:
            raise
        reject(error, shown)
        return None


def _read_list(
    raw: bytes, path: Path, *, name: str, text_key: str, reject: Reject | None
) -> Iterator[Document]:
    """The documents of a `.json` file that is one list; places are rows, counted from 1."""
    try:
        rows: list[Any] = json.loads(decode(raw.removeprefix(BOM), path))
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from None
    for number, row in enumerate(rows, 1):
        line, where, own_name = json.dumps(row), f"{path} row {number}", f"{name}:{number}"

        def read(line: str = line, where: str = where, own_name: str = own_name) -> Document:
            return Document.from_json(line, where=where, name=own_name, text_key=text_key)

        if document := _accepted(read, line, reject):
            yield document


def _document_files(path: Path, holdout: bool) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError("no such file or folder", where=path)
    if holdout:
        if not (path / HOLDOUT).is_file():
            hint = "luban data prepare --holdout 0.02"
            raise DataError(f"the folder has no {HOLDOUT}", where=path, hint=hint)
        return [path / HOLDOUT]
    found = [f for f in sorted(path.iterdir()) if _suffix(f) == ".jsonl" and not f.name.startswith(ASIDE)]
    if not found:
        raise DataError("no *.jsonl documents in this folder", where=path, hint="luban data prepare")
    return found


def _suffix(path: Path) -> str:
    """The suffix that tells the content: `.jsonl` of `a.jsonl.gz`."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSED else path.suffix.lower()


def _readable(path: Path) -> bool:
    return _suffix(path) in ROWS + TEXT


def _choices() -> str:
    return f"{' '.join(ROWS + TEXT)}, each also with {' or '.join(COMPRESSED)}"


def _raise_at_undecodable(path: Path) -> None:
    """Read again, line by line, to say where; only a file that has already failed is read twice."""
    with open_bytes(path) as file:
        for number, raw in enumerate(file, 1):
            decode(raw, f"{path}:{number}")
    raise AssertionError(f"{path} failed to decode, but each of its lines does")


def _decompressed(raw: BinaryIO, path: Path) -> io.RawIOBase:
    if path.suffix.lower() == ".gz":
        return cast(io.RawIOBase, gzip.GzipFile(fileobj=raw))
    return _ZstdReader(raw, path) if path.suffix.lower() == ".zst" else cast(io.RawIOBase, raw)


class _ZstdReader(io.RawIOBase):
    """The content of one or more zstd frames. The library's own reader takes a file cut short for its end."""

    def __init__(self, raw: BinaryIO, path: Path) -> None:
        try:
            import zstandard
        except ModuleNotFoundError:
            raise MachineError(
                "reading .zst needs an extra", where=path, hint="pip install luban[data]"
            ) from None
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
        return DataError(f"broken zstd: {why}", where=self._path, hint="copy or download it again")
