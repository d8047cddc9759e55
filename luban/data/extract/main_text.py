"""Main text of a web page: a small net says of each block whether it is text, and what stays becomes lines.

The net has one hidden layer over `features`; its numbers stand in `weights.json`, made of pages that no reported
figure is measured on (`benchmarks/extraction.py` says which).
"""

from __future__ import annotations

import ctypes
import functools
import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from luban.data.extract.blocks import TAGS, Page, read_page
from luban.data.extract.features import features
from luban.native.build import load, pointer

PRE, ITEM = TAGS.index("pre"), TAGS.index("li")
LENIENCY = 1.0
"""Log odds by which the threshold is lower in the midst of the text."""
CERTAIN, LONG_BLOCK = 3.0, 50
"""Log odds and words beyond which a block counts no more for where the text begins and ends."""
SHORT_CELL = 200
"""A row whose cells are longer is a layout, not a table: its cells become paragraphs."""


@dataclass(frozen=True)
class Extracted:
    """A page's main text and its title (`og:title` if the page has one, else `<title>`)."""

    text: str
    title: str


def extract(page_html: str, *, threshold: float) -> Extracted:
    """The main text: paragraphs apart by an empty line, `- ` before list items, ` | ` between cells, code as is."""
    page = read_page(page_html)
    title = " ".join(html.unescape(page.title).split())
    if not len(page.blocks["start"]):
        return Extracted("", title)
    return Extracted(render(page, choose(page, log_odds(page), threshold)), title)


def choose(page: Page, odds: np.ndarray, threshold: float) -> np.ndarray:
    """The blocks that stay: those above the threshold, and within the run of blocks that holds most of the text
    also those a little below it, so that a list or a short line between paragraphs is not torn out."""
    surplus = np.clip(odds - threshold, -CERTAIN, CERTAIN)
    first, last = densest(surplus * np.minimum(page.blocks["words"], LONG_BLOCK))
    inside = np.zeros(len(odds), bool)
    inside[first:last] = True
    return np.flatnonzero(odds > threshold - LENIENCY * inside)


def densest(worth: np.ndarray) -> tuple[int, int]:
    """The range of blocks with the largest sum."""
    running = np.concatenate(([0.0], np.cumsum(worth, dtype=np.float64)))
    lowest = np.minimum.accumulate(running)
    end = int((running - lowest).argmax())
    return int(running[: end + 1].argmin()), end


def log_odds(page: Page) -> np.ndarray:
    """For each block, the log odds that it is main text."""
    net, rows = _net(), features(page)
    weights = net["hidden"]
    assert rows.shape[1] == len(weights), f"{rows.shape[1]} features, weights for {len(weights)}"
    odds = np.empty(len(rows), np.float32)
    _library().score_rows(
        pointer(rows, np.float32), ctypes.c_int64(len(rows)), ctypes.c_int64(len(weights)),
        pointer(weights, np.float32), pointer(net["hidden_bias"], np.float32), pointer(net["out"], np.float32),
        ctypes.c_float(float(net["out_bias"])), ctypes.c_int64(weights.shape[1]), pointer(odds, np.float32),
    )  # fmt: skip
    return odds


@functools.cache
def _library() -> ctypes.CDLL:
    return load(Path(__file__).with_name("net.cpp"))


@functools.cache
def _net() -> dict[str, np.ndarray]:
    numbers = json.loads(Path(__file__).with_name("weights.json").read_text("ascii"))
    return {name: np.array(values, np.float32) for name, values in numbers.items()}


class _Shape(NamedTuple):
    """What rendering needs to know of a block."""

    start: int
    end: int
    chars: int
    indent: int
    row: int
    table: int
    """What the row is in; -1 without a row."""
    item: int
    """The list item that the block is in, itself or by its parent; -1 if none."""
    code: bool


def render(page: Page, chosen: np.ndarray) -> str:
    """The chosen blocks as text."""
    parts: list[str] = []
    written = (
        page.text.decode() if page.text.isascii() else page.text
    )  # a character a byte: cut without decoding
    before: _Shape | None = None
    item_before = -1
    for shape in _shapes(page, chosen):
        text = _text(written, shape)
        if not text:
            continue
        if shape.item >= 0 and shape.item != item_before:
            text = "  " * (max(shape.indent, 1) - 1) + "- " + text
        if before is not None:
            parts.append("\n" if shape.item >= 0 and item_before >= 0 else _between(before, shape))
        parts.append(text)
        before, item_before = shape, shape.item
    return "".join(parts)


def _shapes(page: Page, chosen: np.ndarray) -> Iterator[_Shape]:
    """One for each chosen block, read off the tables all at once: an array's single elements are slow to come by."""
    tag, parent = page.nodes["tag"], page.nodes["parent"]
    start, end, chars, indent, row, node = (
        page.blocks[name][chosen] for name in ("start", "end", "chars", "indent", "row", "node")
    )
    above = parent[node]
    table = np.where(row >= 0, parent[row], -1)
    item = np.where(tag[node] == ITEM, node, np.where((above >= 0) & (tag[above] == ITEM), above, -1))
    columns = (start, end, chars, indent, row, table, item, tag[node] == PRE)
    return map(_Shape, *(column.tolist() for column in columns))


def _text(written: str | bytes, shape: _Shape) -> str:
    """The block's text, entities as characters, without white space around it."""
    piece = written[shape.start : shape.end]
    text = piece if isinstance(piece, str) else piece.decode()
    if "&" in text:
        text = html.unescape(text)
    text = text.replace("\xa0", " ")
    return text.strip("\n") if shape.code else text.strip()


def _between(before: _Shape, after: _Shape) -> str:
    """What stands between two blocks: a bar between cells, a line's end between rows, else an empty line."""
    if before.row < 0 or after.row < 0 or max(before.chars, after.chars) > SHORT_CELL:
        return "\n\n"
    if before.row == after.row:
        return " | "
    return "\n" if before.table == after.table else "\n\n"
