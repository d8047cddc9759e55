"""One HTML page as two tables, blocks of text and the elements around them, read in one pass in C++."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luban.native.build import load, pointer

COLUMNS = ("start", "end", "chars", "words", "link_chars", "links", "commas", "stops", "digits", "uppers",
           "bold_chars", "node", "indent", "row", "last", "copyright", "hash")  # fmt: skip
NODE_COLUMNS = ("parent", "tag", "hints", "first", "last")
TAGS = ("root", "div", "p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ul", "ol", "dl", "dt", "dd", "table",
        "tr", "td", "pre", "blockquote", "figure", "figcaption", "article", "main", "section", "nav", "header",
        "footer", "aside", "form", "details")  # fmt: skip
"""Kinds of elements that bound blocks, by the number in a node's `tag`."""
HINTS = ("content", "comment", "related", "share", "menu", "byline", "advert", "hidden", "caption", "head",
         "foot", "side", "note", "body", "list")  # fmt: skip
"""What an element's class, id, role or itemprop says of it, by bit in a node's `hints`."""
SMALLEST_ROW = 3
"""Bytes of the shortest thing that makes a row: `<p>`."""


@dataclass(frozen=True)
class Page:
    """A page's blocks and nodes; each column is an int32 array."""

    text: bytes
    blocks: dict[str, np.ndarray]
    nodes: dict[str, np.ndarray]
    title: str

    def block_text(self, index: int) -> str:
        """The block as written, entities and all."""
        return self.text[self.blocks["start"][index] : self.blocks["end"][index]].decode()


def read_page(html: str) -> Page:
    """The tables of any text that claims to be HTML."""
    raw = np.frombuffer(html.encode("utf-8"), np.uint8)
    rows = len(raw) // SMALLEST_ROW + 2
    text = np.empty(len(raw) + 1, np.uint8)
    blocks = np.empty((rows, len(COLUMNS)), np.int32)
    nodes = np.empty((rows, len(NODE_COLUMNS)), np.int32)
    out = np.zeros(5, np.int64)
    load(Path(__file__).with_name("html.cpp")).read_html(
        pointer(raw, np.uint8), ctypes.c_int64(len(raw)), pointer(text, np.uint8),
        pointer(blocks, np.int32), pointer(nodes, np.int32), pointer(out, np.int64),
    )  # fmt: skip
    count, node_count, written, title_at, title_bytes = map(int, out)
    title = (
        raw[title_at : title_at + title_bytes].tobytes().decode("utf-8", "replace") if title_at >= 0 else ""
    )
    columns = np.ascontiguousarray(blocks[:count].T)
    node_columns = np.ascontiguousarray(nodes[:node_count].T)
    return Page(
        text[:written].tobytes(),
        dict(zip(COLUMNS, columns, strict=True)),
        dict(zip(NODE_COLUMNS, node_columns, strict=True)),
        title,
    )
