"""LibreOffice's help in two languages as pairs for `luban translate`.

    pairs.jsonl            {"source", "target", "id"} rows, English to French; one a paragraph or heading
    pairs-holdout.jsonl    the same from held-out pages, about 3 %

Both packages hold the same pages, and a paragraph has one id in all languages. Left out are paragraphs that are
not translated, that hold no word, or that are there already. A page is held out by its name alone, and of its
paragraphs only those whose English stands nowhere in the training pages.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luban.errors import DataError
from luban.fetch.download import debian_files
from luban.folder import write_text

HELP = "usr/share/libreoffice/help"
SOURCE, TARGET = ("en-us", "en-US"), ("fr", "fr")
"""A language's name in its package's name, and its folder in the package."""
HELD_OUT_PERCENT = 3
PARAGRAPH = re.compile(r'<(p|h\d) id="((?:par|hd)_id\w+)"[^>]*>(.*?)</\1>', re.DOTALL)
TAG = re.compile(r"<[^>]*>")
WORD = re.compile(r"[^\W\d_]{2}")

Paragraphs = dict[tuple[str, str], str]
"""Text by the page's path and the paragraph's id."""


def convert(archives: Path, out: Path) -> dict[str, Any]:
    """Write the two files from the two packages in `archives`; returns how many lines each has."""
    source, target = paragraphs(archives, *SOURCE), paragraphs(archives, *TARGET)
    lines: dict[str, list[str]] = {"pairs.jsonl": [], "pairs-holdout.jsonl": []}
    for name, rows in zip(lines, split(source, target), strict=True):
        # In an order of their own, so that the first ones are not all from one page.
        rows.sort(key=lambda row: hashlib.sha256(row["source"].encode()).digest())
        lines[name] = [json.dumps(row, ensure_ascii=False) for row in rows]
        write_text(out / name, "".join(f"{line}\n" for line in lines[name]))
    return {"rows": {name: len(rows) for name, rows in lines.items()}}


def paragraphs(archives: Path, package: str, folder: str) -> Paragraphs:
    """The text of each paragraph and heading with an id, in one language's package."""
    found = list(archives.glob(f"libreoffice-help-{package}_*.deb"))
    if len(found) != 1:
        raise DataError(f"{len(found)} packages of the language '{package}', not one", where=archives)
    start = f"{HELP}/{folder}/"
    return {
        (path.removeprefix(start), name): text
        for path, content in debian_files(found[0], [f"{start}text/*.html"])
        for name, text in texts(content.decode("utf-8"))
    }


def texts(page: str) -> Iterator[tuple[str, str]]:
    """Id and text of the page's paragraphs and headings, white space made single spaces."""
    for _, name, inner in PARAGRAPH.findall(page):
        yield name, " ".join(html.unescape(TAG.sub("", inner)).split())


def split(source: Paragraphs, target: Paragraphs) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Rows to train on and held-out rows; of a source text that occurs again only the first pair is a row.

    Texts that differ in capitals only count as one.
    """
    train: dict[str, dict[str, str]] = {}
    held_out: dict[str, dict[str, str]] = {}
    for (page, name), text in source.items():
        translated = target.get((page, name), "")
        if text == translated or not (WORD.search(text) and WORD.search(translated)):
            continue
        side = held_out if is_held_out(page) else train
        side.setdefault(text.casefold(), {"source": text, "target": translated, "id": f"{page}#{name}"})
    return list(train.values()), [row for key, row in held_out.items() if key not in train]


def is_held_out(page: str) -> bool:
    """Whether a page is kept from training: decided by its name alone, so it never changes."""
    return int(hashlib.sha256(page.encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT
