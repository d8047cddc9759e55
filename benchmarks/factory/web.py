"""WARC files of the real manual pages, gzip member by member as crawls have them."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

from factory import corpus
from luban.folder import atomic_file


def crawl(megabytes: float) -> Path:
    """A `.warc.gz` file with at least so much HTML, page for page in turn from all manuals."""
    path = corpus.folder() / f"pages-{megabytes:g}.warc.gz"
    if not path.is_file():
        from warcio.statusandheaders import StatusAndHeaders
        from warcio.warcwriter import WARCWriter

        with atomic_file(path) as work, work.open("wb") as file:
            writer, size = WARCWriter(file, gzip=True), 0
            for url, page in _in_turn():
                headers = StatusAndHeaders(
                    "200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1"
                )
                writer.write_record(
                    writer.create_warc_record(url, "response", payload=BytesIO(page), http_headers=headers)
                )
                size += len(page)
                if size >= megabytes * 1e6:
                    break
    return path


def _in_turn() -> Iterator[tuple[str, bytes]]:
    waiting = {name: iter(corpus.pages(name)) for name in corpus.packages()}
    while waiting:
        for name, pages in list(waiting.items()):
            page = next(pages, None)
            if page is None:
                del waiting[name]
            else:
                place = quote(f"{page.parent.name}/{page.name}")
                yield f"https://{name}.example.org/{place}", page.read_bytes()
