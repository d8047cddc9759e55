"""`luban data prepare`: raw files become clean documents, with a held-out part that training never sees.

A document whose row brings a `split` of its own keeps it. Any other goes to `holdout.jsonl` by the hash of its
text alone: neither the order of the files nor what else is in them moves it. No exact text stands on both sides.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import heapq
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

from annotated_types import Ge

from luban.data.clean import Duplicates, clean, drop_reason
from luban.data.document import Document
from luban.data.progress import announce
from luban.data.sources import everything_in, list_files, read_source
from luban.errors import ConfigError, DataError
from luban.folder import stage_folder

Side = Literal["train", "holdout"]
SPLITS: Mapping[str, Side] = {
    "train": "train",
    "holdout": "holdout",
    "test": "holdout",
    "validation": "holdout",
    "dev": "holdout",
}
"""Where a row's own `split` puts it."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Raw files to clean documents: `train.jsonl` and `holdout.jsonl`."""

    data: tuple[Path, ...]
    """Files or folders: .jsonl .ndjson .json .txt .md, each also .gz or .zst."""
    out: Path
    """The documents folder to make."""
    text_key: str = "text"
    """Where the text stands in a JSON row."""
    min_chars: Annotated[int, Ge(1)] = 1
    """Drop documents shorter than this after cleaning."""
    holdout: Annotated[float, Ge(0)] = 0.02
    """What to keep for evaluation: a share of the documents (below 1), or their number."""
    on_error: Literal["raise", "quarantine"] = "raise"
    """A malformed row stops the run, or goes to `quarantine.jsonl` with the reason."""
    seed: int = 0
    """Another seed holds out other documents."""


def run(config: Config) -> dict[str, Any]:
    """Make the documents folder; returns counts of documents, characters, changes and drops by reason."""
    split = Split(config.holdout, seed=config.seed)
    with stage_folder(config.out, stage="data prepare", config=config, inputs=config.data) as (
        folder,
        metrics,
    ):
        metrics.update(_prepare(config, split, folder))
    return metrics


def show(results: dict[str, Any]) -> None:
    """The counts as a short page."""
    for side in ("train", "holdout"):
        print(
            f"{side:<11}{results[side]['documents']:>12,} documents {results[side]['chars']:>15,} characters"
        )
    for title in ("dropped", "cleaned"):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in results[title].items())
        print(f"{title:<11}{reasons or 'none'}")
    print(f"files      {results['files']:,} read, {results['ignored_files']:,} of other kinds left alone")


class Split:
    """Sends documents to train or holdout by the hash of their text, so that their order never matters.

    A number of documents to hold out (`holdout` >= 1) takes those with the smallest hashes.
    """

    def __init__(self, holdout: float, *, seed: int) -> None:
        if holdout >= 1 and holdout != int(holdout):
            hint = "--holdout 0.02 (a share) or --holdout 500 (a number)"
            raise ConfigError(f"setting 'holdout' is {holdout}: neither share nor number", hint=hint)
        self._share = holdout if holdout < 1 else 0.0
        self._number = int(holdout)
        self._seed = str(seed).encode()
        self._smallest: list[tuple[int, str, Document]] = []  # a heap, the largest hash first

    def place(self, document: Document) -> Iterator[tuple[Side, Document]]:
        """The documents whose side is known now that this one came."""
        own = SPLITS.get(str(document.meta.get("split")))
        if own is not None:
            yield own, document
            return
        digest = hashlib.blake2b(document.text.encode("utf-8"), digest_size=8, key=self._seed).digest()
        hashed = int.from_bytes(digest)
        if not self._number:
            yield ("holdout" if hashed < self._share * 2**64 else "train"), document
            return
        heapq.heappush(self._smallest, (-hashed, document.id, document))
        if len(self._smallest) > self._number:
            yield "train", heapq.heappop(self._smallest)[-1]

    def rest(self) -> Iterator[tuple[Side, Document]]:
        """The documents whose side is known only at the end."""
        for _, _, document in sorted(self._smallest, reverse=True):
            yield "holdout", document


def _prepare(config: Config, split: Split, folder: Path) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    cleaned: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        quarantine = _Quarantine(folder, stack, dropped) if config.on_error == "quarantine" else None
        raw = (
            doc
            for path in config.data
            for doc in read_source(path, text_key=config.text_key, reject=quarantine)
        )
        stream = announce(raw, stage="data prepare", noun="documents")
        kept = _with_own_ids(_keep(stream, config.min_chars, dropped, cleaned), cleaned)
        sides = _write(_placed(kept, split), folder)
    _check_sides(config, sides, dropped)
    files = sum(len(list_files(path)) for path in config.data)
    return {
        **sides,
        "dropped": dict(sorted(dropped.items())),
        "cleaned": dict(sorted(cleaned.items())),
        "files": files,
        "ignored_files": sum(len(everything_in(path)) for path in config.data) - files,
    }


def _keep(
    documents: Iterable[Document], min_chars: int, dropped: Counter[str], cleaned: Counter[str]
) -> Iterator[Document]:
    """The cleaned documents that stay; counts the others, and what was changed."""
    duplicates = Duplicates()
    for document in documents:
        text, changed = clean(document.text)
        reason = drop_reason(text, min_chars=min_chars) or ("duplicate" if duplicates.seen(text) else None)
        if reason:
            dropped[reason] += 1
            continue
        cleaned.update(changed)
        yield dataclasses.replace(document, text=text)


def _with_own_ids(documents: Iterable[Document], cleaned: Counter[str]) -> Iterator[Document]:
    """The same documents; an id that was there before gets `#2`, `#3`, ..., counted as `renamed`."""
    times: Counter[str] = Counter()
    for document in documents:
        own = document.id
        while times[own]:
            times[document.id] += 1
            own = f"{document.id}#{times[document.id]}"
        times[own] += 1
        if own == document.id:
            yield document
        else:
            cleaned["renamed"] += 1
            yield dataclasses.replace(document, id=own)


def _placed(documents: Iterable[Document], split: Split) -> Iterator[tuple[Side, Document]]:
    for document in documents:
        yield from split.place(document)
    yield from split.rest()


def _write(placed: Iterable[tuple[Side, Document]], folder: Path) -> dict[Side, dict[str, int]]:
    """Write both files; returns documents and characters of each."""
    sides: dict[Side, dict[str, int]] = {
        "train": {"documents": 0, "chars": 0},
        "holdout": {"documents": 0, "chars": 0},
    }
    with _create(folder / "train.jsonl") as train, _create(folder / "holdout.jsonl") as holdout:
        files: dict[Side, TextIO] = {"train": train, "holdout": holdout}
        for side, document in placed:
            files[side].write(document.to_json() + "\n")
            sides[side]["documents"] += 1
            sides[side]["chars"] += len(document.text)
    return sides


def _check_sides(config: Config, sides: dict[Side, dict[str, int]], dropped: Counter[str]) -> None:
    if not sides["train"]["documents"]:
        held = sides["holdout"]["documents"]
        reasons = (
            ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "none dropped"
        )
        raise DataError(
            f"no document is left to train on: {held} held out; {reasons}",
            where=", ".join(map(str, config.data)),
            hint="a smaller --holdout" if held else None,
        )
    if config.holdout and not sides["holdout"]["documents"]:
        print("data prepare: too few documents, none was held out; --holdout 1 takes one", file=sys.stderr)


def _create(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="\n")


class _Quarantine:
    """Writes malformed rows to `quarantine.jsonl` (made with the first), counted as `malformed`."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, dropped: Counter[str]) -> None:
        self._path, self._stack, self._dropped = folder / "quarantine.jsonl", stack, dropped
        self._file: TextIO | None = None

    def __call__(self, error: DataError, line: str) -> None:
        self._file = self._file or self._stack.enter_context(_create(self._path))
        row = {"where": str(error.where), "reason": error.what, "line": line}
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._dropped["malformed"] += 1
