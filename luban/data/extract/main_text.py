"""Main text of a web page: a small net says of each block whether it is text, and what stays becomes lines.

The net has one hidden layer over `features`; its numbers stand in `weights.json`, made of pages that no reported
figure is measured on (`benchmarks/extraction.py` says which).
"""

from __future__ import annotations

import ctypes
import functools
import html
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luban.data.extract.blocks import TAGS, Page, read_page
from luban.data.extract.features import densest, features
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


def log_odds(page: Page) -> np.ndarray:
    """For each block, the log odds that it is main text."""
    net, rows = _net(), features(page)
    weights = net["hidden"]
    assert rows.shape[1] == len(weights), f"{rows.shape[1]} features, weights for {len(weights)}"
    odds = np.empty(len(rows), np.float32)
    load(Path(__file__).with_name("net.cpp")).score_rows(
        pointer(rows, np.float32), ctypes.c_int64(len(rows)), ctypes.c_int64(len(weights)),
        pointer(weights, np.float32), pointer(net["hidden_bias"], np.float32), pointer(net["out"], np.float32),
        ctypes.c_float(float(net["out_bias"])), ctypes.c_int64(weights.shape[1]), pointer(odds, np.float32),
    )  # fmt: skip
    return odds


@functools.cache
def _net() -> dict[str, np.ndarray]:
    numbers = json.loads(Path(__file__).with_name("weights.json").read_text("ascii"))
    return {name: np.array(values, np.float32) for name, values in numbers.items()}


def render(page: Page, chosen: np.ndarray) -> str:
    """The chosen blocks as text."""
    parts: list[str] = []
    before = item_before = -1
    for index in map(int, chosen):
        text = _block(page, index)
        if not text:
            continue
        item = _item(page, index)
        if item >= 0 and item != item_before:
            text = "  " * (max(int(page.blocks["indent"][index]), 1) - 1) + "- " + text
        if parts:
            parts.append("\n" if item >= 0 and item_before >= 0 else _between(page, before, index))
        parts.append(text)
        before, item_before = index, item
    return "".join(parts)


def _block(page: Page, index: int) -> str:
    text = page.block_text(index)
    if "&" in text:
        text = html.unescape(text)
    text = text.replace("\xa0", " ")
    if page.nodes["tag"][page.blocks["node"][index]] == PRE:
        return text.strip("\n")
    return text.strip()


def _item(page: Page, index: int) -> int:
    """The list item that the block is in, itself or by its parent; -1 if none."""
    node = page.blocks["node"][index]
    for around in (node, page.nodes["parent"][node]):
        if around >= 0 and page.nodes["tag"][around] == ITEM:
            return int(around)
    return -1


def _between(page: Page, before: int, index: int) -> str:
    """What stands between two blocks: a bar between cells, a line's end between rows, else an empty line."""
    row, row_before = page.blocks["row"][index], page.blocks["row"][before]
    long = max(page.blocks["chars"][index], page.blocks["chars"][before]) > SHORT_CELL
    if row < 0 or row_before < 0 or long:
        return "\n\n"
    if row == row_before:
        return " | "
    return "\n" if page.nodes["parent"][row] == page.nodes["parent"][row_before] else "\n\n"
