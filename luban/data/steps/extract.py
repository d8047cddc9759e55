"""The extraction step: documents that are web pages become their main text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luban.data.document import Document
from luban.data.extract.main_text import extract
from luban.data.extract.provenance import provenance
from luban.data.step import Batch, Drop, Edit, Outcome

HTML = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True, kw_only=True)
class Extract:
    """Keeps a page's main text and writes its `title`; documents whose `content_type` is not HTML stay as they are.

    Of what the page says for machines it keeps `language` (unless the document has one), `date` of publication (the
    one that the document came with, an archive's, becomes `fetched`) and `license`.

    `page_too_long`: not read at all. `no_main_text`: nothing on the page is text, or less than `min_chars`.
    """

    threshold: float = 0.5
    """Log odds above which a block is text; higher is stricter (precision), lower keeps more (recall)."""
    min_chars: int = 1
    """Drop a page with less main text than this."""
    max_bytes: int = 20_000_000
    """Drop a page longer than this in UTF-8; reading takes about 12 times the page's bytes of memory."""

    def __call__(self, batch: Batch) -> list[Outcome]:
        lengths = batch.packed.lengths
        return [
            self._extract(document, int(lengths[index])) if is_html(document.meta) else None
            for index, document in enumerate(batch.documents)
        ]

    def _extract(self, document: Document, length: int) -> Outcome:
        if length > self.max_bytes:
            return Drop("page_too_long", length)
        found = extract(document.text, threshold=self.threshold)
        if len(found.text) < self.min_chars:
            return Drop("no_main_text", len(found.text))
        meta = {"content_type": "text/plain"} | ({"title": found.title} if found.title else {})
        return Edit(found.text, meta=meta | _told(document), changes={"main_text": 1})


def _told(document: Document) -> dict[str, Any]:
    """What the page says of itself that is better than what was known."""
    told, known = provenance(document.text), document.meta
    fetched = {"fetched": known["date"]} if "date" in told and "date" in known else {}
    return fetched | {name: value for name, value in told.items() if name != "language" or name not in known}


def is_html(meta: dict[str, object]) -> bool:
    """Whether the document says that it is a web page (a charset after `;` does not matter)."""
    return str(meta.get("content_type", "")).partition(";")[0].strip().lower() in HTML
