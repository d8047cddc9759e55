"""XML and small HTML parts as text: for books, mail and parallel files, not for web pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from luban.data.document import RecordError
from luban.data.sources.opening import missing_extra


def plain_html(text: str, where: object) -> str:
    """All text of an HTML page, blocks on lines of their own; nothing is judged or left out as boilerplate."""
    try:
        from resiliparse.extract.html2text import extract_plain_text
    except ModuleNotFoundError:
        raise missing_extra("reading HTML parts", where) from None
    return extract_plain_text(text, preserve_formatting=True, list_bullets=False, alt_texts=False).strip()


def xml_root(raw: bytes, where: object) -> Any:
    """The root element (lxml); entities are not followed, so that no bomb unfolds and no file is fetched."""
    etree = _etree(where)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True)
    try:
        root = etree.fromstring(raw, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise RecordError(f"not valid XML: {error}", reason="bad_xml", where=where) from None
    if root is None:
        raise RecordError("not XML", reason="bad_xml", where=where)
    return root


def iterate_xml(file: Any, names: tuple[str, ...], where: object) -> Iterator[Any]:
    """Each element with one of these names when it is complete; it is freed when the next is asked for.

    Raises RecordError where the file stops being XML, after all that precedes.
    """
    etree = _etree(where)
    tags = [tag for name in names for tag in (name, f"{{*}}{name}")]
    try:
        for _, element in etree.iterparse(
            file, events=("end",), tag=tags, resolve_entities=False, no_network=True, load_dtd=False
        ):
            yield element
            element.clear()
            while element.getprevious() is not None:
                del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        raise RecordError(f"not valid XML: {error}", reason="bad_xml", where=where) from None


def _etree(where: object) -> Any:
    try:
        import lxml.etree
    except ModuleNotFoundError:
        raise missing_extra("reading XML", where) from None
    return lxml.etree
