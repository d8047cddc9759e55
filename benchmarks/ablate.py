"""The corpora of `benchmarks/ablate.md`: HTML books as raw, filtered and dedup, with known copies, and held-out pages.

    python benchmarks/ablate.py UNPACKED OUT [BYTES]

UNPACKED holds the Debian packages python3.11-doc, anarchism, debian-handbook and libreoffice-help-en-us, each
unpacked in a folder of its name; BYTES bounds the distinct main text. `raw` is all text of a page, menus included,
`filtered` its main text; both hold a tenth of the pages 3 to 17 times. `dedup` is `filtered` without the copies.
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

from selectolax.lexbor import LexborHTMLParser

from luban.data.extract.main_text import extract

BOOKS = (
    ("python", "python3.11-doc", 400),
    ("anarchism", "anarchism", 200),
    ("handbook", "debian-handbook", 200),
    ("libreoffice", "libreoffice-help-en-us", 2600),
)
HELD_OUT, HELD_OUT_CHARS = 160, 6000
LONGEST_PAGE, LONGEST_RAW, LONGEST_MAIN, SHORTEST_MAIN = 600_000, 60_000, 40_000, 400
Page = dict[str, str]


def main(unpacked: Path, out: Path, limit: int) -> None:
    """Write the three folders and holdout.jsonl."""
    rng = random.Random(0)
    pages = [page for book in BOOKS for page in read(unpacked, *book, rng)]
    unique: dict[str, Page] = {}
    for page in pages:
        unique.setdefault(re.sub(r"\W+", " ", page["main"].lower()), page)
    pages = list(unique.values())
    rng.shuffle(pages)
    train, size = list[Page](), 0
    for page in pages[HELD_OUT:]:
        if size < limit:
            train.append(page)
            size += len(page["main"].encode())
    often = list(train)
    for page in rng.sample(train, len(train) // 10):
        often += [page] * rng.choice([2, 4, 8, 16])
    rng.shuffle(often)
    for name, rows, key in (("raw", often, "raw"), ("filtered", often, "main"), ("dedup", train, "main")):
        write(out / name / "train-00000.jsonl", rows, key)
    held_out = [page | {"main": page["main"][:HELD_OUT_CHARS]} for page in pages[:HELD_OUT]]
    write(out / "holdout.jsonl", held_out, "main")


def read(unpacked: Path, name: str, package: str, most: int, rng: random.Random) -> list[Page]:
    """The pages of a book that have enough main text."""
    files = sorted((unpacked / package).rglob("*.html"))
    if name == "handbook":
        files = [file for file in files if "en-US" in str(file)]
    rng.shuffle(files)
    pages = []
    for file in files[:most]:
        html = file.read_bytes().decode("utf-8", "replace")
        text = extract(html, threshold=0.5).text if len(html) <= LONGEST_PAGE else ""
        if len(text) >= SHORTEST_MAIN:
            root = LexborHTMLParser(html).root
            raw = re.sub(r"\n\s*\n+", "\n", root.text(separator=" ") if root else "").strip()
            pages.append(
                {"raw": raw[:LONGEST_RAW], "main": text[:LONGEST_MAIN], "source": name, "file": file.name}
            )
    return pages


def write(path: Path, pages: list[Page], key: str) -> None:
    """The pages as documents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for number, page in enumerate(pages):
            row = {"id": f"{page['file']}#{number}", "text": page[key], "source": page["source"]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{path}: {len(pages):,} pages, {sum(len(page[key].encode()) for page in pages) / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1_200_000)
