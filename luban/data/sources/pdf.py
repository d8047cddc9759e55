"""PDF: the text layer of a document, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from luban.data.document import Document, RecordError
from luban.data.sources.opening import missing_extra, too_large
from luban.data.sources.reading import Options, Reject, Slice, known

LEAST_CHARS = 20
"""Fewer characters per page on the whole are a scan's page numbers and stamps."""


def read_pdf(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """The document's text, pages a blank line apart; `meta.pages` says where each begins, in characters.

    A page that cannot be read is rejected alone. Raises RecordError: `encrypted` (a password is needed),
    `scanned` (no text layer), `broken_file`, `too_large`.
    """
    if (size := part.path.stat().st_size) > options.max_record_bytes:
        raise too_large(f"the file of {size:,} bytes", options, part.path)
    with part.path.open("rb") as file:
        reader = _open(file, part)
        begins, pages, length = [], [], 0
        for text in _pages(reader, part, reject):
            begins.append(length)
            pages.append(text)
            length += len(text) + 2
            if length > options.max_record_bytes:
                raise too_large("the text", options, part.path)
        if sum(map(len, pages)) < LEAST_CHARS * len(pages) or not pages:
            raise RecordError(
                f"no text layer in {len(pages)} pages: scanned?", reason="scanned", where=part.path
            )
        meta = known(**_about(reader), pages=begins)
    yield Document(id=f"{part.name}:1", text="\n\n".join(pages), source=part.name, meta=meta)


def _open(file: Any, part: Slice) -> Any:
    try:
        import pypdf
    except ModuleNotFoundError:
        raise missing_extra("reading .pdf", part.path) from None
    import logging

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every flaw it mends
    try:
        reader = pypdf.PdfReader(file)
        locked = reader.is_encrypted and not reader.decrypt("")
    except Exception as error:  # noqa: BLE001 - damaged files make the library raise anything
        raise RecordError(f"broken PDF: {error!r}", reason="broken_file", where=part.path) from None
    if locked:
        raise RecordError("a password is needed", reason="encrypted", where=part.path)
    return reader


def _pages(reader: Any, part: Slice, reject: Reject) -> Iterator[str]:
    try:
        count = len(reader.pages)
    except Exception as error:  # noqa: BLE001 - as above
        raise RecordError(f"broken PDF: {error!r}", reason="broken_file", where=part.path) from None
    for number in range(count):
        where = f"{part.path} page {number + 1}"
        try:
            text = reader.pages[number].extract_text()
        except Exception as error:  # noqa: BLE001 - as above
            reject(RecordError(f"broken page: {error!r}", reason="broken_page", where=where), "")
            continue
        yield text.encode("utf-8", "replace").decode("utf-8").strip()


def _about(reader: Any) -> dict[str, str | None]:
    try:
        about = reader.metadata
        date = about.creation_date if about else None
    except Exception:  # noqa: BLE001 - what is said about the document may be broken where its text is not
        return {}
    return {
        "title": about.title if about else None,
        "author": about.author if about else None,
        "date": date.isoformat() if date else None,
    }
