"""The World English Bible, shipped with the package, as documents to read and questions to answer.

    documents.jsonl                one chapter a document; `split` says which ones are held out
    conversations.jsonl            {"id", "messages"} rows: what kind of book is this verse from?
    conversations-holdout.jsonl    the same question about verses of the held-out chapters

The question has one right answer that a program can check, and no held-out verse is in any training file.
Public domain; how the text was extracted: examples/extract_web.py.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from luban.data.document import Document
from luban.folder import write_text

SOURCE = "world-english-bible"
HELD_OUT_PERCENT = 4
SHORTEST_VERSE = 60
"""Characters below which a verse says too little to be asked about."""

QUESTION = "What kind of book is this verse from?\n{verse}"

KINDS = {
    "law": "Genesis, Exodus, Leviticus, Numbers, Deuteronomy",
    "history": "Joshua, Judges, Ruth, I Samuel, II Samuel, I Kings, II Kings, I Chronicles, II Chronicles, Ezra, "
    "Nehemiah, Esther, Tobit, Judith, Esther (Greek), I Maccabees, II Maccabees, III Maccabees, I Esdras, Acts",
    "poetry": "Job, Psalms, Proverbs, Ecclesiastes, Song of Solomon, Wisdom, Sirach, Lamentations, Additional Psalm, "
    "Prayer of Manasses",
    "prophecy": "Isaiah, Jeremiah, Baruch, Ezekiel, Daniel, Hosea, Joel, Amos, Obadiah, Jonah, Micah, Nahum, "
    "Habakkuk, Zephaniah, Haggai, Zechariah, Malachi, Revelation of John, II Esdras",
    "gospel": "Matthew, Mark, Luke, John",
    "letter": "Romans, I Corinthians, II Corinthians, Galatians, Ephesians, Philippians, Colossians, "
    "I Thessalonians, II Thessalonians, I Timothy, II Timothy, Titus, Philemon, Hebrews, James, I Peter, II Peter, "
    "I John, II John, III John, Jude",
}
"""The kinds of books that are asked about; IV Maccabees, a treatise, is none of them."""

KIND_OF = {book: kind for kind, books in KINDS.items() for book in books.split(", ")}


def convert(packed: Path, out: Path) -> dict[str, Any]:
    """Write the three files from the shipped `web.tsv.gz`; returns how many lines each has."""
    lines: dict[str, list[str]] = {
        "documents.jsonl": [],
        "conversations.jsonl": [],
        "conversations-holdout.jsonl": [],
    }
    for chapter, verses in chapters(packed):
        held = is_held_out(chapter)
        document = Document(
            id=chapter,
            text="\n".join(verses),
            source=SOURCE,
            meta={"split": "holdout" if held else "train"},
        )
        lines["documents.jsonl"].append(document.to_json())
        name = "conversations-holdout.jsonl" if held else "conversations.jsonl"
        lines[name] += [json.dumps(row, ensure_ascii=False) for row in questions(chapter, verses)]
    for name, rows in lines.items():
        # In an order of their own, so that the first hundred questions are not all from Genesis.
        rows.sort(key=lambda row: hashlib.sha256(row.encode()).digest())
        write_text(out / name, "".join(f"{row}\n" for row in rows))
    return {"rows": {name: len(rows) for name, rows in lines.items()}}


def chapters(packed: Path) -> Iterator[tuple[str, list[str]]]:
    """Each chapter's name (`Genesis 1`) and its verses."""
    verses = [line.split("\t") for line in gzip.decompress(packed.read_bytes()).decode().splitlines()]
    for (book, chapter), rows in groupby(verses, key=lambda verse: (verse[0], verse[1])):
        yield f"{book} {chapter}", [text for _, _, _, text in rows]


def questions(chapter: str, verses: list[str]) -> Iterator[dict[str, Any]]:
    """The question and its answer for each verse that is long enough, if the book has a kind."""
    kind = KIND_OF.get(chapter.rpartition(" ")[0])
    for number, verse in enumerate(verses, 1):
        if kind and len(verse) >= SHORTEST_VERSE:
            asked = {"role": "user", "content": QUESTION.format(verse=verse)}
            yield {"id": f"{chapter}:{number}", "messages": [asked, {"role": "assistant", "content": kind}]}


def is_held_out(chapter: str) -> bool:
    """Whether a chapter is kept from training: decided by its name alone, so it never changes."""
    return int(hashlib.sha256(chapter.encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT
