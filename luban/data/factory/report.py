"""What a finished run tells about itself: the facts of its dataset card."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from luban import __version__
from luban.data.card import Amount, Facts, Sample, StageFacts
from luban.data.factory.recipe import Recipe
from luban.data.factory.rows import Files
from luban.data.factory.run import Done
from luban.data.factory.tally import Counts, total
from luban.folder import read_json

SAMPLES = 20
COPIES = ("exact", "minhash", "simhash", "url_duplicates")
"""Steps whose decisions say for each document which other one stays instead."""


def facts(recipe: Recipe, stages: Sequence[Done], inputs: Mapping[str, str], title: str) -> Facts:
    """All that is known after the last stage."""
    first, last = stages[0].counts, stages[-1].counts
    kept = last["kept"]
    return Facts(
        title=title,
        summary=f"Recipe {recipe.name}. {recipe.about}",
        before=Amount(documents=first["documents_in"], bytes=first["bytes_in"]),
        stages=tuple(map(_stage, stages)),
        sources=_amounts(kept["source"]),
        languages=_amounts(kept["language"]),
        licenses=_amounts(kept["license"]),
        lengths={int(size): cell["documents"] for size, cell in kept["length"].items()},
        clusters=_clusters(stages),
        dates={int(year): cell["documents"] for year, cell in kept["year"].items() if year.isdigit()},
        quarantined=total(stage.counts["quarantined"] for stage in stages),
        kept=_kept(stages[-1]),
        dropped=_dropped(stages),
        files={"train": "train-*.jsonl", "holdout": "holdout.jsonl"},
        provenance={"luban": __version__, "recipe": recipe.name, **_inputs(inputs)},
    )


def _stage(done: Done) -> StageFacts:
    counts = done.counts
    dropped = Counter[str]()
    for reasons in counts["dropped"].values():
        dropped.update({reason: cell["documents"] for reason, cell in reasons.items()})
    return StageFacts(
        name=done.name,
        after=Amount(documents=counts["documents_kept"], bytes=counts["bytes_kept"]),
        dropped=dropped,
        changed=total(counts["changed"].values()),
        settings=dict(done.stage.settings()),
    )


def _amounts(cells: Counts) -> dict[str, Amount]:
    return {name: Amount(**cell) for name, cell in cells.items() if name}


def _inputs(inputs: Mapping[str, str]) -> dict[str, str]:
    """The input files, the first few by name."""
    named = dict(list(inputs.items())[:20])
    more = len(inputs) - len(named)
    return {**named, "more files": f"{more:,}"} if more else named


def _clusters(stages: Sequence[Done]) -> dict[int, int]:
    """Groups of duplicates by `octave` of their size, the one that stays included."""
    sizes = Counter[int]()
    for done in stages:
        if done.stage.corpus is None or done.stage.corpus[0] not in COPIES:
            continue
        sizes.update(_group_sizes(sorted((done.folder / "decisions").glob("*.npy"))))
    return dict(sorted(sizes.items()))


def _group_sizes(decisions: Sequence[Path]) -> Counter[int]:
    """Groups by `octave` of their size, from each part's decisions; takes 4 bytes a document."""
    parts = [np.load(path, mmap_mode="r") for path in decisions]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    copies = np.zeros(starts[-1], np.uint32)
    for part in parts:
        gone = part[part[:, 0] >= 0]
        np.add.at(copies, starts[gone[:, 0]] + gone[:, 1], 1)
    sizes = np.bincount(np.frexp(copies[copies > 0] + 1.0)[1])  # 2^(exponent - 1) <= size < 2^exponent
    return Counter({1 << (exponent - 1): int(groups) for exponent, groups in enumerate(sizes) if groups})


def _kept(last: Done) -> tuple[Sample, ...]:
    files = [Files(last.folder, index) for index in range(last.parts)]
    counted = [(part.of("kept"), read_json(part.of("stats", "json"))["documents_kept"]) for part in files]
    return tuple(_sample(row) for row in _draw(counted))


def _dropped(stages: Sequence[Done]) -> tuple[Sample, ...]:
    counted = []
    for done in stages:
        for part in (Files(done.folder, index) for index in range(done.parts)):
            reasons = read_json(part.of("stats", "json"))["dropped"].values()
            count = sum(cell["documents"] for cells in reasons for cell in cells.values())
            counted.append((part.of("rejected"), count))
    return tuple(_sample(row) for row in _draw(counted))


def _draw(counted: Sequence[tuple[Path, int]]) -> list[dict[str, Any]]:
    """SAMPLES rows of the files with so many rows each, every row as likely; the same ones each time."""
    everything = sum(count for _, count in counted)
    wanted = sorted(random.Random(0).sample(range(everything), min(SAMPLES, everything)))
    rows, before = [], 0
    for path, count in counted:
        mine = {number - before for number in wanted if before <= number < before + count}
        before += count
        if mine:
            with path.open("rb") as file:
                rows += [orjson.loads(line) for number, line in enumerate(file) if number in mine]
    random.Random(1).shuffle(rows)
    return rows


def _sample(row: dict[str, Any]) -> Sample:
    why = row.get("dropped") or {}
    value = why.get("value")
    return Sample(
        id=row["id"],
        text=row["text"],
        source=row["source"],
        url=str(row.get("url", "")),
        stage=why.get("step", ""),
        reason=why.get("reason", ""),
        value="" if value is None else (value if isinstance(value, str) else json.dumps(round(value, 4))),
    )
