"""`luban data contamination`: which evaluation examples stand in a corpus, and what scores are worth without them.

The n-grams of the evaluation files are held in memory, the corpus streams by once. Each file is then parted into
`clean.jsonl` and `dirty.jsonl`; given scores per row, their means over all, clean and dirty rows stand side by side.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from luban.data.document import Document
from luban.data.evaluation_rows import EvaluationRow, evaluation_files, read_rows, read_values
from luban.data.progress import announce
from luban.data.sources import read_documents
from luban.data.step import Batch, Packed
from luban.data.steps.decontaminate import GramSet, n_per_text, pack
from luban.errors import ConfigError, DataError
from luban.folder import stage_folder, write_text

BATCH_CHARS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Config:
    """A corpus and evaluation files to the overlap of each example, and clean and dirty subsets.

    Source: Brown et al. 2020 (arXiv:2005.14165), app. C: an example is dirty if an n-gram of it stands in the
    corpus. There n-grams that more than 10 documents hold were left out when the corpus was filtered; here always.
    """

    data: tuple[Path, ...]
    """Documents folders or files: the corpus."""
    against: tuple[Path, ...]
    """Evaluation files or folders: .jsonl .json .txt .md, each also .gz or .zst; every string of a row counts."""
    out: Path
    """The folder to make: `rows.jsonl`, and `clean.jsonl` and `dirty.jsonl` per evaluation file."""
    results: Path | None = None
    """Scores per row ({"id", "score"}), to compare all, clean and dirty rows; an id may be `file:line`."""
    max_n: Annotated[int, Ge(2), Le(63)] = 13
    """Words in a row that are evidence. Files with shorter examples take their 5th percentile of words instead."""
    min_n: Annotated[int, Ge(2), Le(63)] = 8
    """But not fewer than this. A text between the two is looked for as a whole, a shorter one not at all."""
    common: Annotated[int, Ge(1)] = 10
    """An n-gram that more documents hold is a common phrase and no evidence."""


@dataclass(frozen=True, kw_only=True)
class EvaluationFile:
    """An evaluation file's rows, and their texts end to end."""

    name: str
    rows: Sequence[EvaluationRow]
    packed: Packed
    words: np.ndarray
    """int64 per text."""
    ns: np.ndarray
    """int64 per text: how many words in a row are evidence; 0 for none."""
    row_of: np.ndarray
    """int64 per text: the row it belongs to."""


@dataclass(frozen=True, kw_only=True)
class Sightings:
    """What the corpus holds of the evaluation n-grams."""

    grams: GramSet
    holders: np.ndarray
    """int64 per n-gram: how many documents hold it."""
    first: np.ndarray
    """int64 per n-gram: the first of them, as an index of `names`."""
    names: Sequence[str]
    documents: int


def run(config: Config) -> dict[str, Any]:
    """Make the folder; returns per evaluation file how many rows are dirty, and the scores if given."""
    if config.min_n > config.max_n:
        raise ConfigError(f"setting 'min_n' is {config.min_n}, more than 'max_n', which is {config.max_n}")
    inputs = [*config.data, *config.against, *([config.results] if config.results else [])]
    with stage_folder(config.out, stage="data contamination", config=config, inputs=inputs) as (
        folder,
        metrics,
    ):
        files = list(_read_files(config))
        scores = _read_scores(config.results, files) if config.results else None
        corpus = announce(read_documents(config.data), stage="data contamination", noun="documents")
        sightings = look(corpus, _grams(files, config))
        metrics.update(documents=sightings.documents, ngrams=len(sightings.grams.keys), files={})
        lines = []
        for file in files:
            records = judge(file, sightings, config)
            lines += [json.dumps(record, ensure_ascii=False) for record in records]
            _write_subsets(folder / file.name, file, records)
            metrics["files"][file.name] = _summary(file, records, scores)
        write_text(folder / "rows.jsonl", "".join(f"{line}\n" for line in lines))
    return metrics


def show(results: dict[str, Any]) -> None:
    """A line per evaluation file."""
    print(f"{results['documents']:,} documents, {results['ngrams']:,} n-grams of the evaluation files")
    scored = any("score" in file for file in results["files"].values())
    head = f"{'file':<24}{'rows':>8}{'n':>4}{'dirty':>8}{'share':>8}{'short':>8}"
    print(head + (f"{'all':>9}{'clean':>9}{'dirty':>9}{'clean-all':>11}" if scored else ""))
    for name, file in results["files"].items():
        line = f"{name:<24}{file['rows']:>8,}{file['n']:>4}{file['dirty']:>8,}{file['dirty_share']:>8.1%}"
        print(line + f"{file['short']:>8,}" + _shown(file.get("score")))


def look(corpus: Iterable[Document], grams: GramSet) -> Sightings:
    """Stream the corpus by; memory is that of the n-grams and one batch."""
    holders, first = np.zeros(len(grams.keys), np.int64), np.full(len(grams.keys), -1, np.int64)
    names, documents = list[str](), 0
    for batch in _batches(corpus):
        documents += len(batch.documents)
        pairs = np.unique(grams.find(batch.packed)[:, :2], axis=0)
        new = pairs[first[pairs[:, 1]] < 0]
        unseen, at = np.unique(new[:, 1], return_index=True)  # pairs are sorted: the first document of each
        holding, index = np.unique(new[at, 0], return_inverse=True)
        first[unseen] = len(names) + index
        names += [batch.documents[document].id for document in holding.tolist()]
        holders += np.bincount(pairs[:, 1], minlength=len(holders))
    return Sightings(grams=grams, holders=holders, first=first, names=names, documents=documents)


def judge(file: EvaluationFile, sightings: Sightings, config: Config) -> list[dict[str, Any]]:
    """Per row: the share of its words that stand in the corpus as n-grams, the most in a row, and the verdict."""
    total = _per_row(file, file.words)
    covered = {n: _covered(file, sightings, n, config.common) for n in (config.min_n, config.max_n)}
    shares = {
        n: _per_row(file, _text_sums(file, words)) / np.maximum(total, 1) for n, words in covered.items()
    }
    longest = _longest(file, covered[config.min_n])
    evidence = _evidence(file, sightings, config.common)
    return [
        {
            "file": file.name,
            "id": row.id,
            "words": int(total[index]),
            **{f"overlap_{n}": round(float(share[index]), 4) for n, share in shares.items()},
            "longest": int(longest[index]),
            "dirty": index in evidence,
            "document": evidence.get(index),
        }
        for index, row in enumerate(file.rows)
    ]


def _read_files(config: Config) -> Iterator[EvaluationFile]:
    taken: Counter[str] = Counter()
    for path in evaluation_files(config.against):
        rows = list(read_rows(path))
        if not rows:
            raise DataError("there are no rows in this evaluation file", where=path)
        packed, words = pack(rows)
        stem = path.name.partition(".")[0]
        taken[stem] += 1
        yield EvaluationFile(
            name=stem if taken[stem] == 1 else f"{stem}-{taken[stem]}",
            rows=rows,
            packed=packed,
            words=words,
            ns=n_per_text(rows, words, config.min_n, config.max_n),
            row_of=np.repeat(np.arange(len(rows)), [len(row.texts) for row in rows]),
        )


def _grams(files: Sequence[EvaluationFile], config: Config) -> GramSet:
    """Those that decide, and those of both bounds, which are reported."""
    return GramSet.of(
        (file.packed, ns)
        for file in files
        for ns in (file.ns, *(np.where(file.words >= n, n, 0) for n in (config.min_n, config.max_n)))
    )


def _batches(corpus: Iterable[Document]) -> Iterator[Batch]:
    waiting, size = list[Document](), 0
    for document in corpus:
        waiting.append(document)
        size += len(document.text)
        if size >= BATCH_CHARS:
            yield Batch(waiting)
            waiting, size = [], 0
    yield Batch(waiting)


def _seen(file: EvaluationFile, sightings: Sightings, n: int, common: int) -> np.ndarray:
    """The file's n-grams that the corpus holds and that are not common, as rows of `GramSet.find`."""
    found = dataclasses.replace(sightings.grams, ns=np.array([n], np.int64)).find(file.packed)
    holders = sightings.holders[found[:, 1]]
    return found[(holders > 0) & (holders <= common)]


def _covered(file: EvaluationFile, sightings: Sightings, n: int, common: int) -> np.ndarray:
    """Per word whether a seen n-gram holds it; after each text one False more."""
    starts = np.cumsum(file.words + 1) - file.words - 1
    seen = _seen(file, sightings, n, common)
    firsts = starts[seen[:, 0]] + seen[:, 2]
    size = int(file.words.sum()) + len(file.words)
    change = np.bincount(firsts, minlength=size) - np.bincount(firsts + n, minlength=size)
    return np.cumsum(change) > 0


def _text_sums(file: EvaluationFile, covered: np.ndarray) -> np.ndarray:
    return np.add.reduceat(covered.astype(np.int64), np.cumsum(file.words + 1) - file.words - 1)


def _per_row(file: EvaluationFile, per_text: np.ndarray) -> np.ndarray:
    return np.bincount(file.row_of, weights=per_text, minlength=len(file.rows))


def _longest(file: EvaluationFile, covered: np.ndarray) -> np.ndarray:
    """Per row the most covered words in a row."""
    edges = np.flatnonzero(np.diff(covered, prepend=False, append=False)).reshape(-1, 2)
    longest = np.zeros(len(file.rows), np.int64)
    texts = np.searchsorted(np.cumsum(file.words + 1), edges[:, 0], side="right")
    np.maximum.at(longest, file.row_of[texts], edges[:, 1] - edges[:, 0])
    return longest


def _evidence(file: EvaluationFile, sightings: Sightings, common: int) -> dict[int, str]:
    """The dirty rows, each with the first document that holds the first of its n-grams."""
    found: dict[int, str] = {}
    for n in sorted(set(file.ns.tolist()) - {0}, reverse=True):
        seen = _seen(file, sightings, n, common)
        for text, gram in seen[file.ns[seen[:, 0]] == n][:, :2].tolist():
            found.setdefault(int(file.row_of[text]), sightings.names[int(sightings.first[gram])])
    return found


def _write_subsets(folder: Path, file: EvaluationFile, records: Sequence[Mapping[str, Any]]) -> None:
    for name, dirty in (("clean", False), ("dirty", True)):
        kept = (row.raw for row, record in zip(file.rows, records, strict=True) if record["dirty"] == dirty)
        write_text(folder / f"{name}.jsonl", "".join(f"{row}\n" for row in kept))


def _summary(
    file: EvaluationFile, records: Sequence[Mapping[str, Any]], scores: Mapping[str, float] | None
) -> dict[str, Any]:
    dirty = np.array([record["dirty"] for record in records])
    summary = {
        "rows": len(records),
        "n": int(file.ns.max()),
        "dirty": int(dirty.sum()),
        "dirty_share": float(dirty.mean()),
        "short": int((_per_row(file, file.ns) == 0).sum()),
    }
    if scores is None:
        return summary
    known = np.array([scores.get(record["id"], np.nan) for record in records])
    scored = ~np.isnan(known)
    sides = {"all": scored, "clean": scored & ~dirty, "dirty": scored & dirty}
    means = {side: float(known[where].mean()) if where.any() else None for side, where in sides.items()}
    rows = {side: int(where.sum()) for side, where in sides.items()}
    return {**summary, "score": {**means, "rows": rows, "unscored": int((~scored).sum())}}


def _read_scores(path: Path, files: Sequence[EvaluationFile]) -> dict[str, float]:
    """Score by row id; every one belongs to exactly one row of the evaluation files."""
    ids = Counter(row.id for file in files for row in file.rows)
    scores: dict[str, float] = {}
    for number, row in read_values(path):
        where = f"{path}:{number}"
        if not isinstance(row, dict) or "id" not in row or not isinstance(row.get("score"), int | float):
            raise DataError("a result row needs an 'id' and a number as 'score'", where=where)
        own = str(row["id"])
        if own in scores:
            raise DataError(f"there are two scores for '{own}'", where=where)
        if ids[own] != 1:
            problem = f"{ids[own]} evaluation rows have the id '{own}'"
            raise DataError(problem, where=where, hint="rows without an own id are called file:line")
        scores[own] = float(row["score"])
    return scores


def _shown(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    cells = [score["all"], score["clean"], score["dirty"]]
    difference = None if None in cells[:2] else score["clean"] - score["all"]
    shown = [f"{'-' if cell is None else format(cell, '.4f'):>9}" for cell in cells]
    return "".join(shown) + f"{'-' if difference is None else format(difference, '+.4f'):>11}"
