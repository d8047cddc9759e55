"""The numbers of `luban/data/extract/features.cpp` once more, by arithmetic over arrays: what its tests ask.

A container is the range of blocks it covers, so its sums are two look-ups in a running sum, and what holds of
any element around a block follows the parents by doubling: no feature walks a tree.

Sources: text and link density, Kohlschütter et al. 2010 (boilerpipe); candidate scores, Mozilla's Readability.
"""

from __future__ import annotations

import numpy as np

from luban.data.extract.blocks import HINTS, TAGS, Page

OWN_TAGS = ("div", "p", "h1", "h2", "h3", "li", "td", "pre", "blockquote", "figcaption", "dd", "dt")
AROUND_TAGS = ("article", "main", "nav", "header", "footer", "aside", "form", "table", "ul", "ol", "section",
               "figure", "blockquote", "details")  # fmt: skip
TERMINAL = np.array([ord(sign) for sign in '.!?:"”’»。！？…」)'])
RADII = (1, 3, 8)
LEVELS = 3
FAR, LONG, MANY = 30, 5000.0, 60.0
"""Blocks, characters and blocks beyond which more is the same: a book's chapter is judged like an article."""


def features(page: Page) -> np.ndarray:
    """A float32 row for each block."""
    b, n = page.blocks, page.nodes
    chars = b["chars"].astype(np.float32)
    plain = chars - b["link_chars"]
    size = np.log1p(chars)
    linked = b["link_chars"] / chars
    node = b["node"]
    levels = _levels(node, n["parent"])
    columns = [
        size, np.log1p(b["words"]), linked, np.log1p(b["commas"]), np.log1p(b["stops"]), b["stops"] / chars,
        b["digits"] / chars, b["uppers"] / chars, b["bold_chars"] / chars, np.isin(b["last"], TERMINAL),
        b["copyright"], np.minimum(b["links"], 5), np.minimum(b["indent"], 4), chars / np.maximum(b["words"], 1),
        *_tags(n["tag"][node], n, levels), *_hints(n, levels),
        *_place(plain), *_neighbours(size, linked, b["stops"], n["tag"][node]),
        *_containers(page, plain, levels), *_candidates(page, plain, linked, levels), _repeated(b["hash"]),
        *_whole_page(chars, plain, b["stops"]),
    ]  # fmt: skip
    table = np.empty((len(chars), len(columns)), np.float32)
    for at, column in enumerate(columns):
        table[:, at] = column
    return table


def _levels(node: np.ndarray, parent: np.ndarray) -> list[np.ndarray]:
    """Each block's element, its parent, ...; the root is its own parent."""
    up = np.maximum(parent, 0)
    levels = [node]
    for _ in range(LEVELS):
        levels.append(up[levels[-1]])
    return levels


def _around(bits: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """For each node, the bits of it and of every node around it."""
    found, up = bits.copy(), np.maximum(parent, 0)
    while up.any():
        found |= found[up]
        up = up[up]
    return found


def _bits(values: np.ndarray, count: int) -> list[np.ndarray]:
    return [values >> bit & 1 for bit in range(count)]


def _tags(own: np.ndarray, nodes: dict[str, np.ndarray], levels: list[np.ndarray]) -> list[np.ndarray]:
    around = _around(np.left_shift(1, nodes["tag"]).astype(np.int32), nodes["parent"])[levels[0]]
    return [own == TAGS.index(tag) for tag in OWN_TAGS] + [
        around >> TAGS.index(tag) & 1 for tag in AROUND_TAGS
    ]


def _hints(nodes: dict[str, np.ndarray], levels: list[np.ndarray]) -> list[np.ndarray]:
    hints = nodes["hints"]
    near = hints[levels[0]] | hints[levels[1]]
    middle = hints[levels[2]] | hints[levels[3]]
    anywhere = _around(hints, nodes["parent"])[levels[0]]
    return [column for bits in (near, middle, anywhere) for column in _bits(bits, len(HINTS))]


def _running(values: np.ndarray) -> np.ndarray:
    """`result[j] - result[i]` is the sum of `values[i:j]`."""
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))


def _place(plain: np.ndarray) -> list[np.ndarray]:
    count = len(plain)
    index = np.arange(count)
    running = _running(plain)
    total = max(running[-1], 1.0)
    windows = []
    for radius in RADII:
        low, high = np.maximum(index - radius, 0), np.minimum(index + radius + 1, count)
        windows.append(np.log1p(np.minimum(running[high] - running[low], LONG)))
    whole = np.full(count, np.log1p(min(total, LONG)))
    return [
        index / count, running[:-1] / total, _distance(index), _distance(count - 1 - index), whole, *windows,
    ]  # fmt: skip


def _distance(blocks: np.ndarray) -> np.ndarray:
    return np.log1p(np.clip(blocks, 0, FAR))


def _shift(values: np.ndarray, by: int) -> np.ndarray:
    shifted = np.zeros(len(values), np.float32)
    if by > 0:
        shifted[by:] = values[:-by]
    else:
        shifted[:by] = values[-by:]
    return shifted


def _neighbours(
    size: np.ndarray, linked: np.ndarray, stops: np.ndarray, tags: np.ndarray
) -> list[np.ndarray]:
    if len(size) < 3:
        return [np.zeros(len(size))] * 16
    own = (size, linked, stops > 0, tags == TAGS.index("p"))
    return [_shift(column, by) for by in (-2, -1, 1, 2) for column in own]


def _containers(page: Page, plain: np.ndarray, levels: list[np.ndarray]) -> list[np.ndarray]:
    """Size, density and share of the page of the three elements around each block's own."""
    first, last = page.nodes["first"], page.nodes["last"]
    blocks = np.maximum(last - first, 1)
    text, own = _running(page.blocks["chars"]), _running(plain)
    stops = _running(page.blocks["stops"] > 0)
    all_text = np.maximum(text[last] - text[first], 1.0)
    all_own = own[last] - own[first]
    table = [
        np.log1p(np.minimum(all_own, LONG)), 1 - all_own / all_text, all_own / max(own[-1], 1.0),
        np.log(np.minimum(blocks, MANY)), np.log1p(np.minimum(all_own / blocks, LONG)),
        (stops[last] - stops[first]) / blocks,
    ]  # fmt: skip
    return [column[level] for level in levels[1:] for column in table]


def _candidates(
    page: Page, plain: np.ndarray, linked: np.ndarray, levels: list[np.ndarray]
) -> list[np.ndarray]:
    """Where the block stands to the element that collects most paragraphs, and to the densest run of blocks."""
    chars = page.blocks["chars"]
    paragraph = (chars >= 25) & (linked < 0.5)
    worth = np.where(paragraph, 1 + page.blocks["commas"] + np.minimum(chars / 100, 3), 0.0)
    count = len(page.nodes["tag"])
    score = np.bincount(levels[1], worth, count) + 0.5 * np.bincount(levels[2], worth, count)
    best = int(score.argmax())
    first, last = page.nodes["first"][best], page.nodes["last"][best]
    index = np.arange(len(chars))
    most = max(float(score[best]), 1.0)
    start, end = densest(np.where(paragraph, plain, 0.0) - 40.0)
    return [
        (index >= first) & (index < last), _distance(first - index),
        _distance(index - last + 1), np.full(len(chars), np.log1p(min(most, MANY))),
        score[levels[0]] / most, score[levels[1]] / most, score[levels[2]] / most,
        (index >= start) & (index < end), _distance(start - index),
        _distance(index - end + 1),
    ]  # fmt: skip


def densest(worth: np.ndarray) -> tuple[int, int]:
    """The range of blocks with the largest sum."""
    running = _running(worth)
    lowest = np.minimum.accumulate(running)
    end = int((running - lowest).argmax())
    return int(running[: end + 1].argmin()), end


def _repeated(hashes: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    return counts[inverse] > 1


def _whole_page(chars: np.ndarray, plain: np.ndarray, stops: np.ndarray) -> list[np.ndarray]:
    """How much of a text this page is: a manual's chapter keeps its tables, a portal's front page does not."""
    total, own = max(float(chars.sum()), 1.0), float(plain.sum())
    sentences = float(plain[stops > 0].sum())
    return [
        np.full(len(chars), value) for value in (own / total, sentences / total, np.log1p(own / len(chars)))
    ]
