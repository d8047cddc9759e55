"""Rows of texts and their classes, out of files of any format, and split so that every part has every class.

    {"text": "...", "label": "spam"}
    {"premise": "...", "hypothesis": "...", "label": 2}      columns.text=premise columns.second=hypothesis
    {"text": "...", "labels": ["a", "b"]}                    multi_label=true

A folder with a folder for each class, and a text in each file there, is read too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luban.data.rejected import Reject
from luban.data.row_files import RawRow, read_raw
from luban.data.sources import open_text
from luban.errors import DataError, nearest

BETWEEN_LABELS = ";"
"""Parts several labels in the cell of a table."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the rows call their parts."""

    text: str = "text"
    """Key of the text."""
    second: str = ""
    """Key of a second text, where a row is about two of them."""
    label: str = ""
    """Key of the class; nothing means `label`, or `labels` with multi_label."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One or two texts and what they are."""

    text: str
    second: str | None = None
    labels: tuple[str, ...] = ()
    """Exactly one, or with several answers any number; none where nobody knows yet."""
    where: str
    """File and line."""

    @property
    def whole(self) -> str:
        """Both texts as one."""
        return self.text if self.second is None else f"{self.text}\n{self.second}"


def read_labelled(
    paths: Sequence[Path], columns: Columns, *, reject: Reject, multi_label: bool = False, known: bool = True
) -> Iterator[Labelled]:
    """The rows of files and folders; a row that is none goes to `reject`, which may raise.

    `known=False` takes rows without a label too. Raises DataError for a file that is missing, empty or not UTF-8.
    """
    for path in paths:
        for row in _raw_rows(path, columns, multi_label):
            try:
                yield _labelled(row, columns, multi_label=multi_label, known=known)
            except DataError as error:
                reject(error, row.value)


def label_set(rows: Sequence[Labelled], told: Sequence[str], *, multi_label: bool = False) -> tuple[str, ...]:
    """The classes in the order of the head's outputs: as `told`, else all that occur, sorted (numbers as numbers).

    Raises DataError where there are too few to tell apart, and naming the row whose label is not among them.
    """
    labels = tuple(told) or tuple(sorted({label for row in rows for label in row.labels}, key=_in_order))
    if len(labels) < (1 if multi_label else 2):
        what = f"all {len(rows)} rows are labelled {', '.join(labels) or 'nothing'}: there is nothing to tell apart"
        raise DataError(what, where=rows[0].where if rows else None)
    for row in rows:
        check_labels(row, labels)
    return labels


def check_labels(row: Labelled, labels: Sequence[str]) -> None:
    """Raise DataError if the row has a label that is not one of `labels`."""
    for label in row.labels:
        if label not in labels:
            raise DataError(f"label '{label}' is not in the set; {nearest(label, labels)}", where=row.where)


def split_rows(
    rows: Sequence[Labelled], shares: Sequence[float], *, seed: int
) -> tuple[list[Labelled], list[list[Labelled]]]:
    """What is left to train on, and a part of the rows for each of `shares`, drawn with the seed.

    Each class (each combination of labels) gives its share, rounded, but at least one row of two or more; the last
    one it keeps for training.
    """
    random = np.random.default_rng(seed)
    strata: dict[tuple[str, ...], list[Labelled]] = {}
    for row in rows:
        strata.setdefault(tuple(sorted(row.labels)), []).append(row)
    parts: list[list[Labelled]] = [[] for _ in range(len(shares) + 1)]
    for _, members in sorted(strata.items()):
        order = [members[place] for place in random.permutation(len(members))]
        left = len(order)
        for part, share in zip(parts[1:], shares, strict=True):
            taken = min(left - 1, max(1, round(share * len(members)))) if share else 0
            part += order[left - taken : left]
            left -= taken
        parts[0] += order[:left]
    for part in parts:
        random.shuffle(part)
    return parts[0], parts[1:]


def counts_of(rows: Sequence[Labelled], labels: Sequence[str]) -> dict[str, int]:
    """How many rows have each label."""
    counted = Counter(label for row in rows for label in row.labels)
    return {label: counted[label] for label in labels}


def targets_of(rows: Sequence[Labelled], labels: Sequence[str]) -> np.ndarray:
    """[rows, labels] of 0 and 1: which labels each row has."""
    number = {label: place for place, label in enumerate(labels)}
    targets = np.zeros((len(rows), len(labels)), np.int64)
    for place, row in enumerate(rows):
        for label in row.labels:
            targets[place, number[label]] = 1
    return targets


def _raw_rows(path: Path, columns: Columns, multi_label: bool) -> Iterator[RawRow]:
    classes = sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
    if not classes:
        yield from read_raw(path)
        return
    for folder in classes:
        texts = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
        if not texts:
            raise DataError(f"the folder of class '{folder.name}' holds no texts", where=folder)
        for file in texts:
            with open_text(file) as text:
                yield RawRow(
                    str(file), {columns.text: text.read(), _label_key(columns, multi_label): folder.name}
                )


def _label_key(columns: Columns, multi_label: bool) -> str:
    return columns.label or ("labels" if multi_label else "label")


def _labelled(row: RawRow, columns: Columns, *, multi_label: bool, known: bool) -> Labelled:
    if row.fault is not None:
        raise row.fault
    if not isinstance(row.value, dict):
        raise DataError(f"a row is an object, not {type(row.value).__name__}", where=row.where)
    key = _label_key(columns, multi_label)
    labels: tuple[str, ...] = ()
    if known or row.value.get(key) not in (None, ""):
        labels = _labels(_part(row, key, "columns.label"), row.where, several=multi_label)
    return Labelled(
        text=_text(row, columns.text, "columns.text"),
        second=_text(row, columns.second, "columns.second") if columns.second else None,
        labels=labels,
        where=row.where,
    )


def _part(row: RawRow, key: str, setting: str) -> Any:
    if row.value.get(key) is None:
        what = f"there is no '{key}'; {nearest(key, map(str, row.value))}"
        raise DataError(what, where=row.where, hint=f"{setting}=KEY if yours is called otherwise")
    return row.value[key]


def _text(row: RawRow, key: str, setting: str) -> str:
    text = _part(row, key, setting)
    if not isinstance(text, str):
        raise DataError(f"'{key}' is {type(text).__name__}, not a text", where=row.where)
    if not text.strip():
        raise DataError(f"'{key}' is empty", where=row.where)
    return text


def _labels(value: Any, where: str, *, several: bool) -> tuple[str, ...]:
    if not several:
        return (_label(value, where),)
    if isinstance(value, str):  # a cell of a table
        value = json.loads(value) if value.startswith("[") else value.split(BETWEEN_LABELS)
        value = [label.strip() for label in map(str, value) if label.strip()]
    if not isinstance(value, list):
        raise DataError(f"labels are a list, not {value!r}", where=where)
    labels = tuple(_label(label, where) for label in value)
    if len(set(labels)) < len(labels):
        raise DataError(f"a label is there twice: {', '.join(labels)}", where=where)
    return labels


def _label(value: Any, where: str) -> str:
    """A class by its name: numbers and truth values are names too."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if not isinstance(value, str) or not value.strip():
        hint = "multi_label=true for lists of labels" if isinstance(value, list) else None
        raise DataError(f"a label is a name or a whole number, not {value!r}", where=where, hint=hint)
    return value.strip()


def _in_order(label: str) -> tuple[bool, int, str]:
    number = label.removeprefix("-").isdecimal()
    return (not number, int(label) if number else 0, label)
