"""Main text of real manual pages: seconds of each extractor; `benchmarks/extraction.py` measures their accuracy."""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Callable
from statistics import median

from extraction import extractors

from factory import corpus
from factory.measure import apart, in_turn, rates, save, table

PAGES = 300


def run(options: Namespace) -> None:
    pages = _pages()
    megabytes = sum(len(page.encode()) for page in pages) / 1e6
    works = in_turn(
        {name: (lambda name=name: apart(_extract, name)) for name in extractors()}, options.rounds
    )
    found = {
        "pages": len(pages),
        "megabytes": megabytes,
        "speed": rates(megabytes, works, "luban"),
        "pages_per_cpu_s": {
            name: len(pages) / median(work.cpu_s for work in each) for name, each in works.items()
        },
        "characters": {name: each[0].value for name, each in works.items()},
    }
    table(f"extraction: {len(pages)} manual pages, {megabytes:.1f} MB of HTML", found["speed"])
    table("pages per CPU second", [found["pages_per_cpu_s"]])
    table("characters found", [found["characters"]])
    print(save("extract", found))


def _pages() -> list[str]:
    """Pages of all packages, drawn evenly."""
    chance = random.Random(0)
    chosen = []
    for name in corpus.packages():
        files = corpus.pages(name)
        chosen += chance.sample(files, min(len(files), -(-PAGES // len(corpus.packages()))))
    return [path.read_bytes().decode("utf-8", "replace") for path in chosen]


def _extract(name: str) -> Callable[[], int]:
    extract, pages = extractors()[name], _pages()
    extract(pages[0])
    return lambda: sum(len(extract(page)) for page in pages)
