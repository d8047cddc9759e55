"""The variants that are compared: corpora as given, mixed, or with a part that comes often.

A variant is what `pretrain` takes: shards folders, each with its share of the tokens. All are trained for the same
number of tokens, so a document comes as often as its corpus's share is larger than the corpus.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luban.data.chance import draw
from luban.data.document import Document
from luban.data.factory.rows import dump
from luban.data.sources import read_documents
from luban.errors import ConfigError, nearest
from luban.folder import atomic_file, read_json

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Corpus:
    """Documents as shards, and what is known of them."""

    shards: Path
    facts: Mapping[str, Any]
    """`documents`, `bytes`, `distinct_bytes`, `held_out_seen`, `tokens`."""


@dataclass(frozen=True)
class Variant:
    """What one model is trained on: corpora, each with its share of the tokens."""

    name: str
    parts: Mapping[str, float]
    """Weight by the name of a corpus."""

    def epochs(self, corpora: Mapping[str, Corpus], tokens: int) -> dict[str, float]:
        """How often each corpus is gone through in a training of `tokens`."""
        total = sum(self.parts.values())
        return {
            name: round(tokens * weight / total / corpora[name].facts["tokens"], 4)
            for name, weight in self.parts.items()
        }


def named_paths(entries: Iterable[str]) -> dict[str, Path]:
    """The paths of `NAME:PATH` words by their names; raises ConfigError for any other word."""
    found: dict[str, Path] = {}
    for entry in entries:
        name, colon, path = entry.partition(":")
        if not colon or not path or not NAME.fullmatch(name):
            raise ConfigError(
                f"'{entry}' is no NAME:PATH",
                where="setting 'data'",
                hint="--data raw:runs/raw clean:runs/clean",
            )
        if name in found:
            raise ConfigError(f"two variants are called '{name}'", where="setting 'data'")
        found[name] = Path(path)
    if not found:
        raise ConfigError("nothing to compare", where="setting 'data'", hint="--data NAME:PATH ...")
    return found


def mixture(entry: str, known: Iterable[str]) -> Variant:
    """The variant that `a:0.5,b:0.5` says; raises ConfigError for an unknown name or a weight that is none."""
    where, parts = "setting 'mixtures'", dict[str, float]()
    for part in entry.split(","):
        name, _, weight = part.partition(":")
        if name not in (names := list(known)):
            raise ConfigError(f"'{entry}' mixes an unknown '{name}'; {nearest(name, names)}", where=where)
        parts[name] = _weight(weight, entry)
    if len(parts) < 2:
        raise ConfigError(f"'{entry}' mixes nothing", where=where, hint=f"{entry},OTHER:0.5")
    return Variant("+".join(f"{name}-{weight:g}" for name, weight in parts.items()), parts)


def _weight(word: str, entry: str) -> float:
    try:
        weight = float(word)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        what = f"'{entry}' has the weight '{word}', which is no positive number"
        raise ConfigError(what, where="setting 'mixtures'", hint="a:0.5,b:0.5")
    return weight


def repeated(base: str, times: int, share: float) -> Variant:
    """The variant that fills `share` of its tokens with a few documents of `base`, each `times`."""
    few, others = part_names(base, times)
    return Variant(f"{base}-x{times}", {few: share, others: 1 - share} if share < 1 else {few: 1.0})


def part_names(base: str, times: int) -> tuple[str, str]:
    """What the corpora of a repeated variant are called: the few documents, and the others."""
    return f"{base}-x{times}-few", f"{base}-x{times}-others"


def part(source: Path, few: Path, others: Path, *, few_bytes: float) -> None:
    """Write documents of about `few_bytes` together to one file, at least one of them, and the others to the other.

    The draw depends on the texts alone: what a smaller part holds, a larger one of the same source holds too.
    """
    drawn = np.array([(draw(raw, 0), len(raw)) for raw in _texts(source)])
    order = np.argsort(drawn[:, 0], kind="stable")
    together = np.cumsum(drawn[order, 1])
    last = drawn[order[np.abs(together - few_bytes).argmin()], 0]
    with atomic_file(few) as one, atomic_file(others) as other, one.open("wb") as a, other.open("wb") as b:
        for document in read_documents([source]):
            file = a if draw(document.text.encode("utf-8"), 0) <= last else b
            file.write(dump(document))


def survey(source: Path, held_out: Iterable[Document]) -> dict[str, int]:
    """How much text a corpus has, how much of it is distinct, how many held-out documents it holds word for word."""
    held = {_key(document.text.encode("utf-8")) for document in held_out}
    known: set[bytes] = set()
    facts = {"documents": 0, "bytes": 0, "distinct_bytes": 0}
    for raw in _texts(source):
        key = _key(raw)
        facts["documents"] += 1
        facts["bytes"] += len(raw)
        facts["distinct_bytes"] += len(raw) * (key not in known)
        known.add(key)
    return {**facts, "held_out_seen": len(held & known)}


def counted(shards: Path) -> dict[str, int]:
    """What the index of a shards folder counts."""
    index = read_json(shards / "index.json")
    return {name: index[name] for name in ("documents", "tokens", "bytes")}


def _texts(source: Path) -> Iterable[bytes]:
    return (document.text.encode("utf-8") for document in read_documents([source]))


def _key(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=16).digest()
