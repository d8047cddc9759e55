"""Members of ZIP and tar files, read one by one and never unpacked to disk.

What an archive says is not believed: names that leave it, links, sizes that are wrong or out of proportion.
"""

from __future__ import annotations

import contextlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from luban.data.document import RecordError
from luban.data.sources.opening import AGAIN, INNOCENT, bounded, open_bytes
from luban.data.sources.reading import Options, Reject

TARS = (".tar", ".tar.gz", ".tgz", ".tar.zst")
ARCHIVES = (*TARS, ".zip")
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
)


class Member(NamedTuple):
    """A file within an archive; `read` gives its bytes while the iteration stands at it."""

    name: str
    read: Callable[[], bytes]


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVES)


def members(path: Path, options: Options, reject: Reject) -> Iterator[Member]:
    """The files of an archive in its own order; unsafe names and links are rejected.

    `Member.read` raises RecordError for what is too large, a bomb or damaged. Raises RecordError where the archive
    itself cannot be read on.
    """
    try:
        yield from (_zip if path.suffix.lower() == ".zip" else _tar)(path, options, reject)
    except DAMAGED as error:
        raise RecordError(
            f"broken archive: {error}", reason="broken_archive", where=path, hint=AGAIN
        ) from None


def _tar(path: Path, options: Options, reject: Reject) -> Iterator[Member]:
    with (
        open_bytes(path, max_ratio=options.max_ratio) as file,
        tarfile.open(fileobj=file, mode="r|", errorlevel=0) as archive,
    ):
        for entry in archive:
            where = f"{path}:{entry.name}"
            if entry.isdir() or not _is_safe(entry.name, where, reject):
                continue
            if not entry.isfile():
                reject(RecordError("a link or device", reason="link", where=where), entry.name)
                continue

            def read(entry: tarfile.TarInfo = entry, where: str = where) -> bytes:
                file = archive.extractfile(entry)
                assert file is not None, "only plain files come here"
                return bounded(file, options, where)

            yield Member(entry.name, read)


def _zip(path: Path, options: Options, reject: Reject) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            where = f"{path}:{entry.filename}"
            if entry.is_dir() or not _is_safe(entry.filename, where, reject):
                continue

            def read(entry: zipfile.ZipInfo = entry, where: str = where) -> bytes:
                return _unzip(archive, entry, where, options)

            yield Member(entry.filename, read)


@contextlib.contextmanager
def zip_members(path: Path, options: Options) -> Iterator[Callable[[str], bytes]]:
    """A function from a member's name to its bytes; it raises RecordError for what is missing or unreadable."""
    try:
        with zipfile.ZipFile(path) as archive:

            def read(name: str) -> bytes:
                where = f"{path}:{name}"
                try:
                    return _unzip(archive, archive.getinfo(name), where, options)
                except KeyError:
                    raise RecordError("not in the archive", reason="missing_member", where=where) from None

            yield read
    except DAMAGED as error:
        raise RecordError(
            f"broken archive: {error}", reason="broken_archive", where=path, hint=AGAIN
        ) from None


def _unzip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str, options: Options) -> bytes:
    if entry.file_size > max(INNOCENT, options.max_ratio * entry.compress_size):
        what = f"unpacks to {entry.file_size:,} bytes from {entry.compress_size:,} (max_ratio)"
        raise RecordError(what, reason="bomb", where=where)
    try:
        with archive.open(entry) as file:
            return bounded(file, options, where)
    except RuntimeError as error:  # zipfile's word for a password
        raise RecordError(str(error), reason="encrypted", where=where) from None
    except DAMAGED as error:
        raise RecordError(f"broken member: {error}", reason="broken_archive", where=where) from None


def _is_safe(name: str, where: str, reject: Reject) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.is_absolute() and ".." not in path.parts and ":" not in name[:2]:
        return True
    reject(RecordError("the name leads out of the archive", reason="unsafe_path", where=where), name)
    return False
