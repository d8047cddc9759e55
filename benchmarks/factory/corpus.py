"""Real text to measure on: the HTML manuals of pinned Debian packages, as documents of web-like length.

Every paragraph stands in the corpus once, so all duplicates are the ones that `plant` puts in. What is made is
kept beside other fetched things (`$LUBAN_HOME/benchmarks`, else `~/.cache/luban/benchmarks`).
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal

from luban.data.dedup.planted import Planted, plant
from luban.data.document import Document
from luban.data.sources.markup import plain_html
from luban.errors import DataError
from luban.fetch import fetch_known
from luban.fetch.download import archive
from luban.folder import atomic_file, fingerprint, home, write_text

Kind = Literal["prose", "mixed"]
PACKAGES = {
    "boost1.81/libboost1.81-doc": (
        "1.81.0-5+deb12u1",
        "da1e2182ea8955cf6155924066dd611588f855aebf961d0ea0e7ac0092216ebb",
    ),
    "cmake/cmake-doc": (
        "3.25.1-1",
        "6e805a758ffed87cc7ea234cf0a7a1bb8ae78b93d8b5783e7fb989a6320f8133",
    ),
    "debian-policy/debian-policy": (
        "4.6.2.0",
        "ef9d01b625c3b87c3a845c2cd1b66f1a16e9240b2b9e5bee53472a00e8457a39",
    ),
    "developers-reference/developers-reference": (
        "12.18",
        "0dba82f6fa16e373f2a84ad07e7971aa9264ad2e7d2ae46b37edbc9c5fd57e2e",
    ),
    "git/git-doc": (
        "2.39.5-0+deb12u3",
        "3c89668a11053a6bafade3de1f611f4613db31e082af63f43d8c5b69ad8795ec",
    ),
    "libreoffice/libreoffice-help-en-us": (
        "7.4.7-1+deb12u14",
        "8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712",
    ),
    "llvm-toolchain-14/llvm-14-doc": (
        "14.0.6-12",
        "d83d576ccf39dd9c698f983677f5569284cb4d55f084dd135859a73d31910b1a",
    ),
    "maxima/maxima-doc": (
        "5.46.0-11",
        "01a726b693a7e465a62040ac5ade4762194d7553524231d77cd1fcd4a69a75b9",
    ),
    "octave/octave-doc": (
        "7.3.0-2",
        "b27897cc7e3d688daa5cb8f8d1ea47077f3fbd205ce32e22522200ff0c1eadd5",
    ),
    "qtbase-opensource-src/qtbase5-doc-html": (
        "5.15.8+dfsg-11+deb12u3",
        "e052497a7db970f002807e3543043c11e46135641b8284b0a419086ba64f5f47",
    ),
    "rustc/rust-doc": (
        "1.63.0+dfsg1-2",
        "96ef96fe6df87d939ca713bd7df3d15c2b778ccb892eca025c4ee504146f697b",
    ),
    "scipy/python-scipy-doc": (
        "1.10.1-2",
        "a237fdcef1675622f1a5d8a291c64feba140615130ee625554f94772d4ea3ad7",
    ),
    "sqlite3/sqlite3-doc": (
        "3.40.1-2+deb12u2",
        "466e30d7066e2641fa13e56bc662a2ad521b8cc9c17dde9c9dac3d4f105e32f2",
    ),
}
"""Debian source/package: version, SHA-256 of the archive. The books that `luban fetch` knows come on top."""
BOOKS = ("anarchism", "handbook", "reference-en")
MEDIAN_CHARS, SPREAD = 4000, 0.9
"""Lengths of documents: log-normal."""


def folder() -> Path:
    """Where corpora are kept."""
    return home() / "benchmarks"


@cache
def packages() -> dict[str, Path]:
    """The unpacked HTML of every package by its name, fetched where it is not here yet (takes `dpkg-deb`)."""
    pinned = {package.partition("/")[2]: _unpacked(package, *pin) for package, pin in PACKAGES.items()}
    return {**{name: fetch_known(name) for name in BOOKS}, **pinned}


def pages(name: str) -> list[Path]:
    """The package's English pages."""
    found = sorted(path for path in packages()[name].rglob("*.htm*") if path.is_file())
    return [path for path in found if name != "handbook" or "en-US" in str(path)]


def read(kind: Kind) -> list[Document]:
    """All base documents: `prose` has the paragraphs that are sentences, `mixed` all of them, lists and code too."""
    path = folder() / f"{kind}.jsonl"
    if not path.is_file():
        write(path, _documents(kind))
    return load(path)


def load(path: Path) -> list[Document]:
    with path.open("rb") as file:
        return [Document.from_json(line, where=path) for line in file]


def write(path: Path, documents: Iterable[Document]) -> int:
    """Documents as JSON lines; returns the bytes of their texts."""
    size = 0
    with atomic_file(path) as work, work.open("w", encoding="utf-8") as file:
        for document in documents:
            file.write(document.to_json() + "\n")
            size += len(document.text.encode())
    return size


def sample(kind: Kind, megabytes: float, *, seed: int = 0) -> list[Document]:
    """Documents drawn from the base until their texts have about that size."""
    documents = read(kind)
    random.Random(seed).shuffle(documents)
    limit, taken = megabytes * 1e6, 0
    for count, document in enumerate(documents):
        if taken >= limit:
            return documents[:count]
        taken += len(document.text.encode())
    return documents


def planted(kind: Kind, megabytes: float) -> tuple[Path, list[Planted]]:
    """A JSONL file of about that size with planted duplicates of 30 % of its documents, and the list of them."""
    path = folder() / f"{kind}-{megabytes:g}.jsonl"
    truth = path.with_suffix(".pairs.json")
    if not truth.is_file():
        documents, pairs = plant([document.text for document in sample(kind, megabytes / 1.3)])
        write(path, documents)
        write_text(truth, json.dumps([asdict(pair) for pair in pairs]))
    return path, [Planted(**pair) for pair in json.loads(truth.read_text("utf-8"))]


def large(megabytes: int) -> Path:
    """A JSONL file of that size: `mixed`, then again with one word in five another one, as often as it takes.

    Two such versions of a document have a Jaccard similarity of about 0.2 and no 50 words in a row in common, so
    the file grows without becoming duplicates; 2 % of the documents are planted copies of the one before.
    """
    path = folder() / f"large-{megabytes}.jsonl"
    if not path.is_file():
        write(path, _until(_endless(read("mixed")), megabytes * 1_000_000))
    return path


def _until(documents: Iterable[Document], size: int) -> Iterator[Document]:
    for document in documents:
        yield document
        size -= len(document.text.encode())
        if size <= 0:
            return


def _endless(base: Sequence[Document]) -> Iterator[Document]:
    chance = random.Random(1)
    words = [word for document in base[:5000] for word in document.text.split()]
    order = chance.sample(range(len(base)), len(base))
    round_ = number = 0
    while True:
        for index in order:
            text = base[index].text if round_ == 0 else _other_words(base[index].text, words, chance)
            for _ in range(2 if chance.random() < 0.02 else 1):
                yield Document(id=f"large-{number}", text=text, source="large")
                number += 1
        round_ += 1


def _other_words(text: str, words: Sequence[str], chance: random.Random) -> str:
    own = text.split(" ")
    for place in range(chance.randrange(5), len(own), 5):
        own[place] = chance.choice(words)
    return " ".join(own)


def _documents(kind: Kind) -> Iterator[Document]:
    """Neighbouring paragraphs of a manual, across its pages, as documents of random lengths."""
    chance, seen = random.Random(0), set[bytes]()
    between = "\n\n" if kind == "prose" else "\n"
    for name in packages():
        texts = _cut(_paragraphs(name, kind, seen), between, chance)
        yield from (
            Document(id=f"{name}#{number}", text=text, source=name) for number, text in enumerate(texts)
        )


def _paragraphs(name: str, kind: Kind, seen: set[bytes]) -> Iterator[str]:
    for page in pages(name):
        lines = plain_html(page.read_bytes().decode("utf-8", "replace"), page).split("\n")
        for line in map(str.strip, lines):
            if _is_new(line, seen) and (kind == "mixed" or _is_prose(line)):
                yield line


def _cut(paragraphs: Iterable[str], between: str, chance: random.Random) -> Iterator[str]:
    taken, chars, wanted = list[str](), 0, MEDIAN_CHARS * chance.lognormvariate(0, SPREAD)
    for paragraph in paragraphs:
        taken.append(paragraph)
        chars += len(paragraph)
        if chars >= wanted:
            yield between.join(taken)
            taken, chars, wanted = [], 0, MEDIAN_CHARS * chance.lognormvariate(0, SPREAD)


def _is_new(line: str, seen: set[bytes]) -> bool:
    if len(line) < 40:  # "Parameters:" may come again
        return bool(line)
    key = hashlib.blake2b(" ".join(line.lower().split()).encode(), digest_size=8).digest()
    if key in seen:
        return False
    seen.add(key)
    return True


def _is_prose(line: str) -> bool:
    letters = len(re.findall(r"[^\W\d_]|\s", line))
    return len(line) >= 80 and letters >= 0.85 * len(line) and line[-1] in ".:?!)\"'"


def _unpacked(package: str, version: str, digest: str) -> Path:
    place = folder() / "html" / package.partition("/")[2]
    if not place.is_dir():
        work = place.with_name(f".{place.name}")
        work.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        with tempfile.TemporaryDirectory() as name:
            file = archive("debian", package, version, Path(name))
            if fingerprint(file) != digest:
                raise DataError(f"{file.name} is not the package that was pinned", where=package)
            subprocess.run(["dpkg-deb", "-x", str(file), str(work)], check=True)
        work.rename(place)
    return place


def facts(documents: Sequence[Document]) -> dict[str, Any]:
    """Size of a corpus, for the record."""
    sizes = sorted(len(document.text) for document in documents)
    return {
        "documents": len(sizes),
        "megabytes": round(sum(len(document.text.encode()) for document in documents) / 1e6, 1),
        "median_chars": sizes[len(sizes) // 2] if sizes else 0,
    }
