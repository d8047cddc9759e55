"""One HTML page as two tables, blocks of text and the elements around them, read in one pass in C++."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache, cached_property
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
    """A page's blocks and nodes, a row each."""

    text: bytes
    block_rows: np.ndarray  # int32 [blocks, COLUMNS]
    node_rows: np.ndarray  # int32 [nodes, NODE_COLUMNS]
    title: str

    @cached_property
    def blocks(self) -> dict[str, np.ndarray]:
        """The blocks' columns by name."""
        return dict(zip(COLUMNS, self.block_rows.T, strict=True))

    @cached_property
    def nodes(self) -> dict[str, np.ndarray]:
        """The nodes' columns by name."""
        return dict(zip(NODE_COLUMNS, self.node_rows.T, strict=True))

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
    _library().read_html(
        pointer(raw, np.uint8), ctypes.c_int64(len(raw)), pointer(text, np.uint8),
        pointer(blocks, np.int32), pointer(nodes, np.int32), pointer(out, np.int64),
    )  # fmt: skip
    count, node_count, written, title_at, title_bytes = map(int, out)
    title = (
        raw[title_at : title_at + title_bytes].tobytes().decode("utf-8", "replace") if title_at >= 0 else ""
    )
    return Page(text[:written].tobytes(), blocks[:count], nodes[:node_count], title)


@cache
def _library() -> ctypes.CDLL:
    return load(Path(__file__).with_name("html.cpp"))
