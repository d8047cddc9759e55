"""Which files a path stands for: all below a folder in sorted order, loops and locked folders told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from luban.data.document import RecordError
from luban.data.sources.reading import Reject
from luban.folder import RUN_FILE


def everything_in(path: Path, reject: Reject | None = None) -> list[Path]:
    """All files under a folder, sorted, but for hidden ones and `run.json`; a file stands for itself.

    Links to folders are followed, each folder once. `reject` takes what cannot be read: `symlink_loop` (a folder
    met again), `broken_link`, `unreadable`, `not_a_file`; without it they are passed over.
    """
    if path.is_file():
        return [path]
    return sorted(_below(path, reject or (lambda *_: None), set()))


def _below(folder: Path, reject: Reject, met: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in met:
        reject(RecordError("a link to a folder met before", reason="symlink_loop", where=folder), str(folder))
        return
    met.add(real)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        reject(RecordError(f"cannot list: {error.strerror}", reason="unreadable", where=folder), str(folder))
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith(".") or entry.name == RUN_FILE:
            continue
        if entry.is_symlink() and not path.exists():
            reject(RecordError("the link leads nowhere", reason="broken_link", where=path), str(path))
        elif entry.is_dir():
            yield from _below(path, reject, met)
        elif entry.is_file():
            yield path
        else:
            reject(RecordError("a pipe, socket or device", reason="not_a_file", where=path), str(path))
