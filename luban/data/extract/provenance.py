"""What a web page says of itself: its language, when it was published, and under which licence.

Only statements made for machines count (attributes, `meta`, JSON-LD): a date or a licence that a text mentions may
be anything's.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from itertools import islice

from luban.data.extract.dates import iso_date
from luban.data.extract.licenses import license_at
from luban.data.sources.warc import TWO_LETTERS

TOP_CHARS = 200_000
"""Where the head and a date are looked for; a licence may stand at the very end."""
MOST_TAGS = 200
"""So many elements of the body are looked at for a date or a licence."""
HEAD_ENDS = re.compile(r"</head\b|<body\b", re.IGNORECASE)
HEAD_TAG = re.compile(r"<(html|meta|link)\s([^<>]*)>", re.IGNORECASE)
ATTRIBUTE = re.compile(r"""([a-z][\w:.-]*)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)
TIME = re.compile(r"<time\s([^<>]*)>", re.IGNORECASE)
DATED = re.compile(r"<\w+\s([^<>]*\bitemprop\s*=\s*[\"']?datePublished\b[^<>]*)>")
LICENSED = re.compile(r"<a\s([^<>]*\brel\s*=\s*[\"']?[^\"'<>=]*\blicense\b[^<>]*)>", re.IGNORECASE)
LD_DATE = re.compile(r'"datePublished"\s*:\s*"([^"]{4,40})"')
LANGUAGE = re.compile(r"([a-z]{2,3})(?:[-_][a-z0-9]+)*$", re.IGNORECASE)
NONE = ("und", "mul", "zxx")
"""Codes for no language, or several."""

LANGUAGES = ("lang", "xml:lang", "content-language", "og:locale", "dc.language", "dcterms.language")
DATES = ("article:published_time", "og:published_time", "citation_publication_date", "dcterms.issued",
         "dc.date.issued", "dcterms.created", "dc.date.created", "dcterms.date", "dc.date", "datepublished",
         "pubdate", "publishdate", "date")  # fmt: skip
LICENSES = ("rel license", "cc:license", "dcterms.license", "dc.rights.license", "dcterms.rights", "dc.rights",
            "license", "rights", "copyright")  # fmt: skip
"""Names under which a head tells it, the surest first."""


def provenance(page: str) -> dict[str, str]:
    """`language` (ISO 639), `date` (of publication, ISO 8601) and `license` (SPDX, else its address), where told."""
    head = _head(page)
    told = {
        "language": _first(map(_language, _under(LANGUAGES, head))),
        "date": _first(map(iso_date, _dates(page, head))),
        "license": _first(map(license_at, _under(LICENSES, head))) or _license_in_body(page),
    }
    return {name: value for name, value in told.items() if value}


def _head(page: str) -> dict[str, str]:
    """What `<html>`, `<meta>` and `<link>` say, by name; of equal names the first."""
    end = HEAD_ENDS.search(page, 0, TOP_CHARS)
    first, *commented = page[: end.start() if end else TOP_CHARS].split("<!--")
    head = first + "".join(piece.partition("-->")[2] for piece in commented)
    said: dict[str, str] = {}
    for tag in HEAD_TAG.finditer(head):
        for name, value in _statements(tag[1].lower(), _attributes(tag[2])):
            said.setdefault(name.lower(), value)
    return said


def _statements(tag: str, attributes: dict[str, str]) -> Iterator[tuple[str, str]]:
    if tag == "html":
        yield from attributes.items()
    elif tag == "meta":
        keys = (attributes.get(key) for key in ("name", "property", "http-equiv", "itemprop"))
        yield from ((key, attributes.get("content", "")) for key in keys if key)
    elif "license" in attributes.get("rel", "").lower().split():
        yield "rel license", attributes.get("href", "")


def _attributes(tag: str) -> dict[str, str]:
    return {
        found[1].lower(): html.unescape(found[2] or found[3] or found[4] or "")
        for found in ATTRIBUTE.finditer(tag)
    }


def _under(names: Iterable[str], head: dict[str, str]) -> Iterator[str]:
    return (head[name] for name in names if name in head)


def _dates(page: str, head: dict[str, str]) -> Iterator[str]:
    """Stated dates, the surest first; the body is only looked at if the head gives none."""
    yield from _under(DATES, head)
    if page.find("datePublished", 0, TOP_CHARS) >= 0:
        yield from (found[1] for found in LD_DATE.finditer(page, 0, TOP_CHARS))
        yield from (tag.get("content") or tag.get("datetime", "") for tag in _tags(DATED, page, TOP_CHARS))
    if page.find("<time", 0, TOP_CHARS) >= 0:
        yield from (tag.get("datetime", "") for tag in _tags(TIME, page, TOP_CHARS))


def _license_in_body(page: str) -> str | None:
    """The licence of all links that say they lead to it; None if they lead to several, as on a page of pictures."""
    if "license" not in page:
        return None
    found = {license_at(tag.get("href", "")) for tag in _tags(LICENSED, page, len(page))} - {None}
    return found.pop() if len(found) == 1 else None


def _tags(pattern: re.Pattern[str], page: str, end: int) -> Iterator[dict[str, str]]:
    return (_attributes(found[1]) for found in islice(pattern.finditer(page, 0, end), MOST_TAGS))


def _language(stated: str) -> str | None:
    """The first part of a language tag: `zh` of `zh-Hans-CN`."""
    found = LANGUAGE.match(stated.partition(",")[0].strip())
    code = found[1].lower() if found else NONE[0]
    return None if code in NONE else TWO_LETTERS.get(code, code)


def _first(values: Iterable[str | None]) -> str | None:
    return next(filter(None, values), None)
