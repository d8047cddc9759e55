"""EPUB: a book's chapters in reading order become one document."""

from __future__ import annotations

import posixpath
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from luban.data.document import Document, RecordError
from luban.data.sources.archives import zip_members
from luban.data.sources.charset import declared_in, to_text
from luban.data.sources.markup import plain_html, xml_root
from luban.data.sources.opening import too_large
from luban.data.sources.reading import Options, Reject, Slice, known

CHAPTERS = ("application/xhtml+xml", "text/html")
ABOUT = {
    "title": "title",
    "author": "creator",
    "language": "language",
    "date": "date",
    "license": "rights",
    "publisher": "publisher",
}
"""Our name for the book's Dublin Core elements."""


def read_epub(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """The book as one document: its text, blocks on lines of their own, chapters a blank line apart.

    `meta` keeps title, author, language, date, license (`dc:rights`) and `chapters` (where each begins, in
    characters). A chapter that cannot be read is rejected alone; raises RecordError for a book without any text.

    Source: EPUB 3.3 (W3C), Open Container Format and package document.
    """
    with zip_members(part.path, options) as member:
        container = xml_root(member("META-INF/container.xml"), part.path)
        package = container.xpath("string(//*[local-name()='rootfile']/@full-path)")
        opf = xml_root(member(package), f"{part.path}:{package}")
        chapters = _chapters(member, _spine(opf, posixpath.dirname(package)), part.path, reject)
        text, begins = _bind(chapters, options, part.path)
    if not text:
        raise RecordError("no text in any chapter", reason="no_text", where=part.path)
    meta = known(**{ours: _first(opf, theirs) for ours, theirs in ABOUT.items()}, chapters=begins)
    yield Document(id=f"{part.name}:1", text=text, source=part.name, meta=meta)


def _spine(opf: Any, folder: str) -> list[str]:
    """The names of the chapters in reading order."""
    items = {
        item.get("id"): item for item in opf.xpath("//*[local-name()='manifest']/*[local-name()='item']")
    }
    order = opf.xpath("//*[local-name()='spine']/*[local-name()='itemref']/@idref")
    chapters = [items[ref] for ref in order if ref in items and items[ref].get("media-type") in CHAPTERS]
    hrefs = [urllib.parse.unquote(item.get("href", "")) for item in chapters]
    return [posixpath.normpath(posixpath.join(folder, href)) for href in hrefs]


def _chapters(member: Callable[[str], bytes], names: list[str], path: Path, reject: Reject) -> Iterator[str]:
    for name in names:
        where = f"{path}:{name}"
        try:
            raw = member(name)
            text, _ = to_text(raw, where, declared_in(raw))
        except RecordError as error:
            reject(error, name)
            continue
        yield plain_html(text, where)


def _bind(chapters: Iterator[str], options: Options, path: Path) -> tuple[str, list[int]]:
    """The chapters joined, and where each begins."""
    parts: list[str] = []
    begins: list[int] = []
    length = 0
    for chapter in filter(None, chapters):
        begins.append(length)
        parts.append(chapter)
        length += len(chapter) + 2
        if length > options.max_record_bytes:
            raise too_large("the book", options, path)
    return "\n\n".join(parts), begins


def _first(opf: Any, name: str) -> str:
    return opf.xpath(f"string(//*[local-name()='metadata']/*[local-name()='{name}'])").strip()
