"""Code repositories: one document per source file, with its language and licence."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from luban.data.document import Document, RecordError
from luban.data.sources.archives import is_archive, members
from luban.data.sources.charset import to_text
from luban.data.sources.languages import LICENSE_FILE, SPDX, language_of, license_of, why_not_source
from luban.data.sources.opening import bounded, open_bytes
from luban.data.sources.reading import Options, Reject, Slice, known, shown

LICENSE_BYTES = 1 << 18


def read_code(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """The source files of a repository (archive, or file by file), each named by its path.

    `license` is the file's own SPDX tag, else that of the nearest licence file above it. Rejected are
    `code_vendored`, `code_minified`, `code_generated` files, those in no known language (`code_language`), and
    binary ones. Sizes are a filter's business.
    """
    if is_archive(part.path):
        yield from _archive(part, options, reject)
        return
    with open_bytes(part.path, max_ratio=options.max_ratio) as file:
        raw = bounded(file, options, part.path)
    root = part.root or part.path.parent
    inner = part.path.relative_to(root).as_posix()
    above = _license_above(part.path.parent, root)
    yield _source_file(inner, raw, part.path, part.name, above)


def _archive(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """Reads the archive twice: once for its licences, which may stand behind what they cover."""
    licenses: dict[PurePosixPath, str] = {}
    for member in members(part.path, options, lambda *_: None):
        path = PurePosixPath(member.name)
        if LICENSE_FILE.fullmatch(path.name) and (found := _license_in(member.read)):
            licenses.setdefault(path.parent, found)
    for member in members(part.path, options, reject):
        path = PurePosixPath(member.name)
        if LICENSE_FILE.fullmatch(path.name):
            continue
        above = next((licenses[folder] for folder in path.parents if folder in licenses), None)
        try:
            where = f"{part.path}:{member.name}"
            document = _source_file(member.name, member.read(), where, part.name, above)
            yield dataclasses.replace(document, id=f"{part.name}:{member.name}")
        except RecordError as error:
            reject(error, shown(member.name))


def _source_file(name: str, raw: bytes, where: object, source: str, license_above: str | None) -> Document:
    text, encoding = to_text(raw, where)
    language = language_of(name, text)
    reason = "code_language" if language is None else why_not_source(name, text)
    if reason:
        raise RecordError(f"not a source file to learn from: {name}", reason=reason, where=where)
    tagged = SPDX.search(text[:5000])
    meta = known(
        programming_language=language,
        license=tagged[1] if tagged else license_above,
        path=name,
        encoding=None if encoding == "utf-8" else encoding,
    )
    return Document(id=source, text=text, source=source, meta=meta)


def _license_in(read: Callable[[], bytes]) -> str | None:
    try:
        return license_of(to_text(read(), "")[0])
    except RecordError:  # it is told when the members themselves are read
        return None


@functools.lru_cache(maxsize=4096)
def _license_above(folder: Path, root: Path) -> str | None:
    """The licence of the nearest folder that has one, up to the root that was asked for."""
    for file in sorted(folder.iterdir()):
        if LICENSE_FILE.fullmatch(file.name) and file.is_file():
            found = license_of(file.read_bytes()[:LICENSE_BYTES].decode("utf-8", "replace"))
            if found:
                return found
    if folder == root or not folder.is_relative_to(root):
        return None
    return _license_above(folder.parent, root)
