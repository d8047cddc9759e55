"""Near-duplicates alone: signatures and grouping in one process, and whole commands beside datatrove's four stages.

Recall by Jaccard similarity of planted pairs, beside what theory promises for 14 bands of 8 rows, and precision.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from factory import corpus
from factory.chain import FILES, PEER, part_mb, split
from factory.command import HERE, WORKERS, prepare
from factory.measure import (
    Run,
    apart,
    clock_rates,
    command,
    in_turn,
    rates,
    save,
    spread,
    table,
    times,
    together,
)
from luban.data.dedup.lsh import meeting_chance
from luban.data.dedup.minhash import MinHash
from luban.data.dedup.planted import group_numbers, precision, recall
from luban.data.factory import rows
from luban.data.factory.part import save as save_part
from luban.data.factory.part import saved
from luban.data.step import Batch

BATCH, MEMORY = 4_000_000, 1_000_000_000
RECIPE = HERE / "dedup.yaml"


def run(options: Namespace) -> None:
    path, truth = corpus.planted(options.kind, options.megabytes)
    documents = corpus.load(path)
    megabytes = corpus.facts(documents)["megabytes"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        collected = {verify: folder / str(verify) for verify in (False, True)}
        for verify, place in collected.items():
            save_part(place, 0, [dict(MinHash(verify=verify).collect(batch)) for batch in _batches(path)])
        works = in_turn(
            {
                "signatures": lambda: apart(_signatures, path),
                "groups": lambda: apart(_resolve, collected[False], False),
                "groups, verified": lambda: apart(_resolve, collected[True], True),
            },
            options.rounds,
        )
        signed = in_turn(
            {
                "one process": lambda: apart(_signatures, path),
                "two processes, half each": lambda: together(_signatures, [(path, 0, 2), (path, 1, 2)]),
            },
            options.rounds,
        )
        groups = {
            verify: group_numbers([np.load(place / "decisions" / "00000.npy")])
            for verify, place in collected.items()
        }
        found: dict[str, Any] = {
            "corpus": {"kind": options.kind, **corpus.facts(documents), "planted": len(truth)},
            "kernels": rates(megabytes, works),
            "signatures": clock_rates(megabytes, signed),
            "documents_per_cpu_s": {
                side: spread([len(documents) / work.cpu_s for work in each], 0)
                for side, each in works.items()
            },
            "recall": _recall(truth, groups),
            "precision": {
                "luban" + (", verified" if verify else ""): precision(
                    [document.text for document in documents], numbers, threshold=0.7, ngram=5
                )
                for verify, numbers in groups.items()
            },
        }
        if options.peer_python:
            split(documents, folder / "in", FILES)
            runs = in_turn(
                {
                    "luban": lambda: prepare(
                        folder / "in", folder / "ours", "--part-mb", part_mb(folder / "in"), recipe=RECIPE
                    ),
                    "datatrove": lambda: command(
                        [options.peer_python, PEER, folder / "in", folder / "theirs", "--only-dedup"]
                    ),
                },
                options.rounds,
            )
            found["commands"] = _commands(runs, megabytes, len(documents))
    _show(found)
    print(save(f"dedup-{options.kind}", found))


def _batches(path: Path, part: int = 0, parts: int = 1) -> list[Batch]:
    """Every document, or one in `parts` of them."""
    first, batches = 0, []
    for documents in rows.batches(corpus.load(path)[part::parts], size=BATCH):
        batches.append(Batch(documents, first))
        first += len(documents)
    return batches


def _signatures(path: Path, part: int = 0, parts: int = 1) -> Callable[[], int]:
    step, batches = MinHash(verify=False), _batches(path, part, parts)
    step.collect(Batch([corpus.Document(id="", text="a few words to load the library", source="")]))
    # As in the factory, what is counted of a batch goes with it.
    return lambda: sum(len(step.collect(Batch(batch.documents, batch.first))["keys"]) for batch in batches)


def _resolve(place: Path, verify: bool) -> Callable[[], None]:
    part, out = saved(place, 0), place / "decisions" / "00000.npy"
    assert part is not None
    step = MinHash(verify=verify)
    step.resolve([part], [out], memory=MEMORY)  # loads the library
    return lambda: step.resolve([part], [out], memory=MEMORY)


def _recall(truth: list[Any], groups: dict[bool, np.ndarray]) -> list[dict[str, Any]]:
    plain, sure = (recall(truth, groups[verify]) for verify in (False, True))
    chances = {
        (one.low, one.high): float(
            np.mean(
                [
                    meeting_chance(pair.jaccard, bands=14, rows=8)
                    for pair in truth
                    if one.low <= pair.jaccard < one.high + (one.high == 1)
                ]
            )
        )
        for one in plain
    }
    return [
        {
            "Jaccard": f"{one.low:g} to {one.high:g}",
            "pairs": one.pairs,
            "theory": chances[one.low, one.high],
            "luban": one.recall,
            "luban, verified": other.recall,
        }
        for one, other in zip(plain, sure, strict=True)
    ]


def _commands(runs: dict[str, list[Run]], megabytes: float, documents: int) -> list[dict[str, Any]]:
    walls = {side: [one.wall_s for one in each] for side, each in runs.items()}
    return [
        {
            "": side,
            "wall s": spread(each),
            "CPU s": spread([one.cpu_s for one in runs[side]]),
            "MB/s": megabytes / sorted(each)[len(each) // 2],
            "documents/s": documents / sorted(each)[len(each) // 2],
            "luban is": times(each, walls["luban"]) if side != "luban" else "",
        }
        for side, each in walls.items()
    ]


def _show(found: dict[str, Any]) -> None:
    size = found["corpus"]
    table(
        f"dedup, {size['kind']}: {size['documents']:,} documents, {size['megabytes']} MB; one process",
        found["kernels"],
    )
    table("signatures by the clock, 112 hashes", found["signatures"])
    table("documents per CPU second", [found["documents_per_cpu_s"]])
    table("recall of planted pairs", found["recall"])
    table("precision of drops (J >= 0.7)", [found["precision"]])
    if "commands" in found:
        table(f"whole commands, {WORKERS} workers", found["commands"])
