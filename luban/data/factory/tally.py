"""What happened to the documents of a part, counted in one nested dict that adds up over parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from luban.data.card.facts import octave
from luban.data.document import Document

Counts = dict[str, Any]
"""Numbers under names, nested; two of them add up name by name."""


def add(into: Counts, other: Counts) -> Counts:
    """`into` with the numbers of `other` added, whatever the nesting."""
    for name, value in other.items():
        if isinstance(value, dict):
            add(into.setdefault(name, {}), value)
        else:
            into[name] = into.get(name, 0) + value
    return into


def total(parts: Iterable[Counts]) -> Counts:
    """The sum of all parts."""
    result: Counts = {}
    for part in parts:
        add(result, part)
    return result


def empty() -> Counts:
    """The counts of a stage before its first document."""
    return {
        "documents_in": 0,
        "documents_kept": 0,
        "bytes_in": 0,
        "bytes_kept": 0,
        "dropped": {},  # step -> reason -> {documents, bytes}
        "changed": {},  # step -> rule -> times
        "quarantined": {},  # reason -> records
        "seconds": {},  # step -> CPU-bound wall time, all workers together
        "kept": {
            "source": {},
            "language": {},
            "license": {},
            "length": {},
            "year": {},
        },  # -> {documents, bytes}
    }


def describe(counts: Counts, document: Document, size: int) -> None:
    """Count a kept document of `size` bytes under what a dataset card tells: source, language, length, ..."""
    meta = document.meta
    facts = {
        "source": document.source.partition("/")[0],
        "language": str(meta.get("language", "")),
        "license": str(meta.get("license", "")),
        "length": octave(len(document.text)),
        "year": str(meta.get("date", ""))[:4],
    }
    for kind, value in facts.items():
        cell = counts["kept"][kind].setdefault(str(value), {"documents": 0, "bytes": 0})
        cell["documents"] += 1
        cell["bytes"] += size
