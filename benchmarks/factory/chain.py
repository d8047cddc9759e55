"""JSONL -> Gopher repetition and quality -> MinHash -> JSONL: whole commands beside datatrove's, same thresholds.

Each side starts as a user starts it, 2 workers, from the same 8 files. Start-up is what the same command takes on
sixteen short documents; the steady state is the rest. Memory is that of the whole process tree (PSS), sampled in an
extra run of Luban and, as it hardly shows there, in datatrove's timed runs.
"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from factory import corpus
from factory.command import HERE, WORKERS, prepare
from factory.measure import Run, command, in_turn, ratio, save, spread, table
from luban.data.dedup.lsh import meeting_chance
from luban.data.dedup.planted import EDGES, Planted, precision
from luban.data.document import Document

FILES = 8
TINY = 16
"""Documents to measure the start with: two a file."""
CHAIN, PEER = HERE / "chain.yaml", HERE / "peer_chain.py"
Kept = tuple[set[str], set[str]]
"""Ids after the filters, and after deduplication."""
Link = tuple[str, str]
"""Two documents of one group of duplicates."""


def run(options: Namespace) -> None:
    """Measure, compare decisions, print and save."""
    path, truth = corpus.planted(options.kind, options.megabytes)
    documents = corpus.load(path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, tiny = folder / "whole", folder / "tiny"
        split(documents, whole, FILES)
        split(sorted(documents, key=lambda document: len(document.text))[:TINY], tiny, FILES)
        sure = folder / "sure.yaml"
        sure.write_text(CHAIN.read_text("utf-8").replace("verify: false", "verify: true"), encoding="utf-8")
        sides = {
            "luban": lambda: _luban(whole, folder / "ours"),
            "luban, verified": lambda: _luban(whole, folder / "sure", recipe=sure),
            "luban, start only": lambda: _luban(tiny, folder / "none"),
        }
        if options.peer_python:
            sides["datatrove"] = lambda: _peer(options, whole, folder / "theirs")
            sides["datatrove, start only"] = lambda: _peer(options, tiny, folder / "none")
        _luban(tiny, folder / "none")  # compiles the kernels, once per machine
        runs = in_turn(sides, options.rounds)
        memory = {"luban": _luban(whole, folder / "none", sample_s=0.02).peak_mb}
        megabytes = corpus.facts(documents)["megabytes"]
        found: dict[str, Any] = {
            "corpus": {"kind": options.kind, **corpus.facts(documents), "planted": len(truth)},
            "runs": {side: [{**vars(one), "output": ""} for one in each] for side, each in runs.items()},
            "memory_mb": memory,
            "speed": _speed(runs, megabytes, len(documents)),
        }
        kept = {"luban": _kept_by_luban(folder / "ours"), "luban, verified": _kept_by_luban(folder / "sure")}
        links = {"luban": _luban_links(folder / "ours"), "luban, verified": _luban_links(folder / "sure")}
        if options.peer_python:
            _peer(options, whole, folder / "theirs", "--clusters")
            kept["datatrove"], links["datatrove"] = (
                kept_by_peer(folder / "theirs"),
                _peer_links(folder / "theirs"),
            )
            found["memory_mb"]["datatrove"] = max(one.peak_mb for one in runs["datatrove"])
            found["stages_s"] = json.loads(runs["datatrove"][-1].output.splitlines()[-1])
            found["ratios"] = _ratios(runs)
            found["decisions"] = _agreement(documents, truth, kept, links)
        found["recall"] = _recall(truth, [document.id for document in documents], kept)
        found["precision"] = [
            {
                "": side,
                "dropped with one alike (J >= 0.7) in their group": _precision(documents, kept[side], pairs),
            }
            for side, pairs in links.items()
        ]
    _show(found)
    print(save(f"chain-{options.kind}", found))


def _luban(source: Path, out: Path, *, recipe: Path = CHAIN, sample_s: float | None = None) -> Run:
    return prepare(source, out, "--part-mb", part_mb(source), recipe=recipe, sample_s=sample_s)


def part_mb(source: Path) -> str:
    """The size of a part that makes every file of the folder one: none is cut, and no two fit in."""
    largest = max(file.stat().st_size for file in source.iterdir())
    return f"{max(0.01, 1.001 * largest / 1e6):.3f}"


def _peer(options: Namespace, source: Path, out: Path, *more: str) -> Run:
    return command([options.peer_python, PEER, source, out, *more], sample_s=0.5)


def split(documents: Sequence[Document], folder: Path, files: int) -> None:
    for index in range(files):
        begin, end = (len(documents) * place // files for place in (index, index + 1))
        corpus.write(folder / f"{index:05d}.jsonl", documents[begin:end])


def _speed(runs: Mapping[str, Sequence[Run]], megabytes: float, documents: int) -> list[dict[str, Any]]:
    rows = []
    for side in ("luban", "luban, verified", "datatrove"):
        if side in runs:
            walls = [one.wall_s for one in runs[side]]
            starts = [one.wall_s for one in runs[f"{side.partition(',')[0]}, start only"]]
            steady = median(walls) - median(starts)
            rows.append(
                {
                    "": side,
                    "wall s": spread(walls),
                    "of it start s": spread(starts),
                    "CPU s": spread([one.cpu_s for one in runs[side]]),
                    "documents/s": round(documents / median(walls)),
                    "MB/s": megabytes / median(walls),
                    "documents/s, start taken off": round(documents / steady),
                    "MB/s, start taken off": megabytes / steady,
                }
            )
    return rows


def _ratios(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, float]]:
    walls = {side: [one.wall_s for one in each] for side, each in runs.items()}
    steady = {
        side: [a - b for a, b in zip(walls[side], walls[f"{side}, start only"], strict=True)]
        for side in ("luban", "datatrove")
    }
    cpu = {side: [one.cpu_s for one in runs[side]] for side in ("luban", "datatrove")}
    return {
        "start-up included": ratio(walls["datatrove"], walls["luban"]),
        "steady state": ratio(steady["datatrove"], steady["luban"]),
        "CPU seconds": ratio(cpu["datatrove"], cpu["luban"]),
    }


def _kept_by_luban(out: Path) -> Kept:
    return _ids(out / "stages" / "00-gopher" / "kept"), _ids(out / "stages" / "01-fuzzy" / "kept")


def kept_by_peer(out: Path) -> Kept:
    """What a run of `peer_chain.py` kept."""
    return _ids(out / "filtered"), _ids(out / "kept")


def _ids(folder: Path) -> set[str]:
    return {row["id"] for path in sorted(folder.glob("*.jsonl")) for row in _rows(path)}


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        return [json.loads(line) for line in file]


def _agreement(
    documents: Sequence[Document],
    truth: Sequence[Planted],
    kept: Mapping[str, Kept],
    links: Mapping[str, Sequence[Link]],
) -> dict[str, Any]:
    """Shares of equal decisions: by the filters, by deduplication of what both let through, and in the end.

    Which one of a group stays is a matter of taste (Luban: the longest; datatrove: the first of the largest part), so
    deduplication is compared by group too: a document counts as equal where both kept as many of its group. Whether a
    planted pair is found is a matter of chance; the last figure is what two draws of hash functions would agree on.
    """
    ids = [document.id for document in documents]
    ours, theirs = kept["luban"], kept["datatrove"]
    both = [name for name in ids if name in ours[0] and name in theirs[0]]
    groups = _groups(ids, [*links["luban"], *links["datatrove"]])
    passed = set(both)
    chances = [
        float(meeting_chance(pair.jaccard, bands=14, rows=8))
        for pair in truth
        if ids[pair.original] in passed and ids[pair.copy] in passed
    ]
    mine, peers = (Counter(groups[name] for name in both if name in one[1]) for one in (ours, theirs))
    return {
        "documents": len(ids),
        "kept by filters, by all": ", ".join(
            f"{side} {len(a):,}, {len(b):,}" for side, (a, b) in kept.items()
        ),
        "filters": sum((name in ours[0]) == (name in theirs[0]) for name in ids) / len(ids),
        "dedup": sum((name in ours[1]) == (name in theirs[1]) for name in both) / len(both),
        "dedup, by group": sum(mine[groups[name]] == peers[groups[name]] for name in both) / len(both),
        "dedup, expected of chance": 1 - sum(4 * p * (1 - p) for p in chances) / len(both),
        "end to end": sum((name in ours[1]) == (name in theirs[1]) for name in ids) / len(ids),
    }


def _groups(ids: Sequence[str], links: Sequence[Link]) -> dict[str, str]:
    """Each document's group by one of its members."""
    parent = {name: name for name in ids}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for one, other in links:
        parent[root(one)] = root(other)
    return {name: root(name) for name in ids}


def _precision(documents: Sequence[Document], kept: Kept, links: Sequence[Link]) -> float:
    place = {document.id: index for index, document in enumerate(documents)}
    groups = _groups(list(place), links)
    stays = {groups[name]: place[name] for name in kept[1]}
    numbers = np.array([stays.get(groups[name], index) for name, index in place.items()])
    return precision([document.text for document in documents], numbers, threshold=0.7, ngram=5)


def _peer_links(out: Path) -> list[Link]:
    first: dict[int, str] = {}
    links = []
    for path in [*out.glob("kept/*.jsonl"), *out.glob("gone/**/*.jsonl")]:
        for row in _rows(path):
            cluster = row["metadata"].get("minhash_cluster_id", -1)
            if cluster is not None and cluster >= 0:
                links.append((row["id"], first.setdefault(cluster, row["id"])))
    return links


def _luban_links(out: Path) -> list[Link]:
    before = [
        [row["id"] for row in _rows(path)] for path in sorted(out.glob("stages/00-gopher/kept/*.jsonl"))
    ]
    links = []
    for path in out.glob("stages/01-fuzzy/rejected/*.jsonl"):
        for row in _rows(path):
            part, index = map(int, row["dropped"]["value"].split("/"))
            links.append((row["id"], before[part][index]))
    return links


def _recall(truth: Sequence[Planted], ids: Sequence[str], sides: Mapping[str, Kept]) -> list[dict[str, Any]]:
    """Of planted pairs that passed both sides' filters, the share of which not both documents stayed."""
    rows = []
    for low, high in pairwise(EDGES):
        pairs = [
            (ids[pair.original], ids[pair.copy])
            for pair in truth
            if low <= pair.jaccard < high or pair.jaccard == high == EDGES[-1]
        ]
        passed = [pair for pair in pairs if all(name in kept[0] for kept in sides.values() for name in pair)]
        if passed:
            found = {
                side: sum(not (a in kept[1] and b in kept[1]) for a, b in passed) / len(passed)
                for side, kept in sides.items()
            }
            rows.append({"Jaccard": f"{low:g} to {high:g}", "pairs": len(passed), **found})
    return rows


def _show(found: Mapping[str, Any]) -> None:
    size = found["corpus"]
    title = (
        f"chain, {size['kind']}: {size['documents']:,} documents, {size['megabytes']} MB, {WORKERS} workers"
    )
    memory = found["memory_mb"]
    table(title, [{**row, "peak MB": memory.get(row[""], "")} for row in found["speed"]])
    if "ratios" in found:
        table("datatrove's time over Luban's", [{"": key, **row} for key, row in found["ratios"].items()])
        table("equal decisions", [found["decisions"]])
    table("recall of planted pairs (not both stayed)", found["recall"])
    table("precision", found["precision"])
