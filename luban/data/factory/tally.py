"""What happened to the documents of a part, counted in one nested dict that adds up over parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from luban.data.card.facts import octave
from luban.data.document import Document

Counts = dict[str, Any]
"""Numbers under names, nested; two of them add up name by name."""
KINDS = ("source", "language", "license", "length", "year")
KNOWN = ("language", "license", "date", "split")
"""Entries of a document's meta that are counted."""
SIDES = ("train", "holdout")


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
        "kept": {kind: {} for kind in KINDS},  # -> value -> {documents, bytes}
        "sides": {},  # train, holdout -> {documents, chars}
    }


def describe(counts: Counts, documents: Sequence[Document], sizes: Sequence[int]) -> None:
    """Count kept documents of so many bytes under what a dataset card tells: source, language, length, ..."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for document, size in zip(documents, sizes, strict=True):
        chars, meta = len(document.text), document.meta
        known = () if meta.keys().isdisjoint(KNOWN) else tuple([str(meta.get(name, "")) for name in KNOWN])
        sums = alike.setdefault((document.source, chars.bit_length(), known), [0, 0, 0])
        sums[0] += 1
        sums[1] += size
        sums[2] += chars
    for (source, bits, known), (count, size, chars) in alike.items():
        told = dict(zip(KNOWN, known, strict=False))
        facts = {
            "source": source.partition("/")[0],
            "language": told.get("language", ""),
            "license": told.get("license", ""),
            "length": str(octave((1 << bits) - 1)),
            "year": told.get("date", "")[:4],
        }
        for kind, value in facts.items():
            add(counts["kept"][kind].setdefault(value, {}), {"documents": count, "bytes": size})
        if told.get("split") in SIDES:
            add(counts["sides"].setdefault(told["split"], {}), {"documents": count, "chars": chars})
