"""Main-text extraction, side by side with trafilatura and resiliparse: accuracy and pages per second, one core.

    python benchmarks/extraction.py ARTICLES           articles: a checkout of scrapinghub's
                                                       article-extraction-benchmark (181 pages, MIT)
    python benchmarks/extraction.py --book FOLDER      a manual: HTML chapters and the .txt.gz made of the same
                                                       source (Debian: debian-reference-en, -zh-cn, ...)

Accuracy is that benchmark's: shares of 4-word shingles, per page, averaged over pages; the whole manual counts as
one page there. None of these pages had a part in `weights.json`: it was trained on the test pages of Mozilla's
Readability (labels: its expected output) and of trafilatura (labels: its own snippets, else its output where
it agrees with them), and on the Python, LibreOffice, Debian-handbook and Anarchist-FAQ manuals (labels: the
element that holds the text); the threshold was chosen on a held-out fifth of the
first two, the leniency on all of them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from luban.data.extract.main_text import extract
from luban.data.steps.extract import Extract

WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
Extractor = Callable[[str], str]


def extractors() -> dict[str, Extractor]:
    """Every extractor that can be imported here."""
    import trafilatura
    from resiliparse.extract.html2text import extract_plain_text

    threshold = Extract().threshold
    return {
        "luban": lambda page: extract(page, threshold=threshold).text,
        "resiliparse": lambda page: extract_plain_text(page, main_content=True),
        "trafilatura fast": lambda page: trafilatura.extract(page, fast=True, include_comments=False) or "",
    }


def shingles(text: str, pattern: str = r"\w+") -> Counter[tuple[str, ...]]:
    """Runs of four words with how often each occurs; a shorter text is one run."""
    words = re.findall(pattern, text)
    return Counter(tuple(words[at : at + 4]) for at in range(max(1, len(words) - 3)) if words)


def scores(
    pairs: Iterable[tuple[Counter[tuple[str, ...]], Counter[tuple[str, ...]]]],
) -> tuple[float, float, float]:
    """F1 of the mean precision and the mean recall, and both, from (true, found) shingles per page."""
    precisions, recalls = [], []
    for true, found in pairs:
        hit = (true & found).total()
        if found:
            precisions.append(hit / found.total())
        if true:
            recalls.append(hit / true.total())
    precision, recall = statistics.mean(precisions), statistics.mean(recalls)
    return 2 * precision * recall / (precision + recall), precision, recall


def articles(folder: Path) -> tuple[list[str], list[str]]:
    """Pages and their true texts."""
    truth = json.loads((folder / "ground-truth.json").read_text("utf-8"))
    pages = [
        gzip.decompress((folder / "html" / f"{key}.html.gz").read_bytes()).decode("utf-8", "replace")
        for key in truth
    ]
    return pages, [truth[key].get("articleBody", "") for key in truth]


def book(folder: Path) -> tuple[list[str], str]:
    """Chapters and the text of them all."""
    [text] = folder.rglob("*.txt.gz")
    pages = [path.read_text("utf-8") for path in sorted(text.parent.glob("ch*.html"))]
    return pages, gzip.decompress(text.read_bytes()).decode("utf-8")


def rate(extract_one: Extractor, pages: list[str], rounds: int) -> tuple[list[str], float]:
    """What was extracted, and pages per second in the best round."""
    found, best = [extract_one(page) for page in pages], 0.0
    for _ in range(rounds):
        start = time.perf_counter()
        for page in pages:
            extract_one(page)
        best = max(best, len(pages) / (time.perf_counter() - start))
    return found, best


def main() -> None:
    """Print one line per extractor and set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("articles", type=Path, nargs="?")
    parser.add_argument("--book", type=Path, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"{'':<34}{'F1':>7}{'P':>7}{'R':>7}{'pages/s':>10}")
    for name, extract_one in extractors().items():
        if args.articles:
            pages, true = articles(args.articles)
            found, speed = rate(extract_one, pages, args.rounds)
            row = scores((shingles(a), shingles(b)) for a, b in zip(true, found, strict=True))
            print(f"{'articles':<16}{name:<18}" + "".join(f"{x:7.3f}" for x in row) + f"{speed:10.0f}")
        for folder in args.book:
            pages, text = book(folder)
            found, speed = rate(extract_one, pages, args.rounds)
            row = scores([(shingles(text, WORD.pattern), shingles("\n".join(found), WORD.pattern))])
            print(f"{folder.name[-15:]:<16}{name:<18}" + "".join(f"{x:7.3f}" for x in row) + f"{speed:10.0f}")


if __name__ == "__main__":
    main()
