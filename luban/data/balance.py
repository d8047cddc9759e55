"""`luban data balance`: a pool of rows, resampled to the proportions in which people really ask.

    log of instructions -> kind of each -> shares -> as many rows of each kind out of the pool

A pool has what was easy to collect; a log has what the model will be asked. Both are read by the same classifier, so
what it confuses it confuses alike.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

from luban.folder import stage_folder

if TYPE_CHECKING:
    import numpy as np

    from luban.data.rejected import Tally
    from luban.data.task_types import TypeClassifier

HELD_OUT = 0.2
"""The share of the labelled instructions, by their hashes, that only measures the classifier."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Resample rows to the proportions of a log of real instructions."""

    data: tuple[Path, ...]
    """The pool: files or folders of rows as for `luban sft`."""
    log: tuple[Path, ...]
    """Real instructions: rows as in the pool, whose answers may be missing, or a .txt file with one per line."""
    out: Path
    """The folder to make: `rows.jsonl`, and `rejected.jsonl` with rows that hold no instruction."""
    labelled: tuple[Path, ...] = ()
    """Instructions that have a `type`, to learn your own kinds from; without them 12 kinds (chat, question, reading,
    brainstorm, writing, rewriting, summary, classification, extraction, translation, code, mathematics)."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What the rows call their entries: `columns.prompt=question`."""
    rows: Annotated[int, Ge(0)] = 0
    """Rows to draw; 0 draws what the shares allow before a kind reaches `max_epochs`."""
    max_epochs: Annotated[float, Gt(0)] = 1.0
    """How often a row may come at most; with `rows`, what a kind lacks for its share goes to the others."""
    seed: Annotated[int, Ge(0)] = 0
    """Another seed draws and shuffles differently."""


@dataclass(frozen=True)
class Instructions:
    """Rows with what each asks, and its kind as a number."""

    rows: Sequence[Any]
    kinds: np.ndarray  # int64 [rows]


def run(config: Config) -> dict[str, Any]:
    """Make the folder; returns per kind its share in log, pool and what was drawn, and how far these are apart."""
    import numpy as np

    from luban.data.rejected import Tally, write_rejected

    inputs = [*config.data, *config.log, *config.labelled]
    with stage_folder(config.out, stage="data balance", config=config, inputs=inputs) as (folder, metrics):
        tally = Tally()
        classifier, accuracy = _classifier(config, tally)
        log, pool = (_read(paths, classifier, config, tally) for paths in (config.log, config.data))
        asked, there = (np.bincount(part.kinds, minlength=len(classifier.names)) for part in (log, pool))
        quotas = quotas_for(asked, there, rows=config.rows, max_epochs=config.max_epochs)
        numbers = draw(pool.kinds, quotas, seed=config.seed)
        lines = [_line(pool.rows[number], classifier.names[pool.kinds[number]]) for number in numbers]
        (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
        write_rejected(folder, tally)
        metrics.update(report(classifier.names, asked, there, quotas), classifier=accuracy)
        metrics.update(rows=len(lines), rejected=len(tally.rejected))
    _warn(metrics)
    return metrics


def show(results: dict[str, Any]) -> None:
    """A line per kind: its share in the log, in the pool before, and in what was drawn."""
    print(f"{'kind':<16}{'log':>8}{'pool':>8}{'drawn':>8}{'rows':>9}{'epochs':>8}")
    for name, kind in results["kinds"].items():
        shares = "".join(f"{kind[part]:>8.1%}" for part in ("log", "pool", "drawn"))
        print(f"{name:<16}{shares}{kind['rows']:>9,}{kind['epochs']:>8.2f}")
    before, after = results["distance"]["pool"], results["distance"]["drawn"]
    print(
        f"{results['rows']:,} rows; {before:.1%} of the pool, {after:.1%} of what was drawn differ from the log"
    )
    measured = results["classifier"]
    print(
        f"classifier: {measured['accuracy']:.1%} of {measured['held_out']:,} held-out labelled instructions right"
        f" ({measured['majority']:.1%} by the commonest kind)"
    )


def quotas_for(log: np.ndarray, pool: np.ndarray, *, rows: int, max_epochs: float) -> np.ndarray:
    """How many rows of each kind to draw for the log's shares out of a pool of so many: int64 [kinds].

    Kinds that one of the two lacks get none. Raises DataError if they have none in common.
    """
    import numpy as np

    from luban.data.mixture import plan_epochs
    from luban.errors import DataError

    both = np.flatnonzero((log > 0) & (pool > 0))
    if not len(both):
        raise DataError("log and pool have no kind of task in common")
    epochs = np.zeros(len(log))
    epochs[both] = plan_epochs(pool[both].tolist(), log[both].tolist(), max_epochs, rows)
    wanted = epochs * pool
    quotas = np.floor(wanted + 1e-9).astype(np.int64)
    left = round(float(wanted.sum())) - int(quotas.sum())
    quotas[np.argsort(quotas - wanted, kind="stable")[:left]] += 1  # largest remainders
    return quotas


def draw(kinds: np.ndarray, quotas: np.ndarray, *, seed: int) -> list[int]:
    """Numbers of rows, so many of each kind, shuffled over all; none comes twice before all of its kind came once."""
    import numpy as np

    chance = np.random.default_rng(seed)
    taken = [np.zeros(0, np.int64)]
    for kind, quota in enumerate(quotas.tolist()):
        mine = chance.permutation(np.flatnonzero(kinds == kind))
        taken.append(np.resize(mine, quota) if quota else mine[:0])
    return chance.permutation(np.concatenate(taken)).tolist()


def report(names: Sequence[str], log: np.ndarray, pool: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    """Shares by kind, and how far pool and draw are from the log: half the sum of the shares' differences."""
    shares = {
        part: counts / counts.sum() for part, counts in (("log", log), ("pool", pool), ("drawn", drawn))
    }
    kinds = {
        name: {
            **{part: round(float(share[number]), 4) for part, share in shares.items()},
            "rows": int(drawn[number]),
            "epochs": round(float(drawn[number] / pool[number]), 4) if pool[number] else 0.0,
        }
        for number, name in enumerate(names)
        if log[number] or pool[number]
    }
    distance = {
        part: round(float(abs(shares[part] - shares["log"]).sum() / 2), 4) for part in ("pool", "drawn")
    }
    return {"kinds": kinds, "distance": distance, "log_rows": int(log.sum()), "pool_rows": int(pool.sum())}


def _classifier(config: Config, tally: Tally) -> tuple[TypeClassifier, dict[str, Any]]:
    """The classifier, and how it does on labelled instructions it has not seen."""
    from collections import Counter

    from luban.data.chance import draw as chance
    from luban.data.task_types import learn_types, pattern_instructions
    from luban.errors import DataError

    labelled = list(_labelled(config, tally)) if config.labelled else list(pattern_instructions())
    held = [chance(text.encode("utf-8", "replace"), config.seed) < HELD_OUT for text, _ in labelled]
    train, test = (
        [pair for pair, out in zip(labelled, held, strict=True) if out == side] for side in (False, True)
    )
    if not train or not test:
        what = f"too few labelled instructions: {len(labelled)}"
        raise DataError(what, where=config.labelled[0], hint="some dozens of each kind")
    classifier = learn_types(*zip(*train, strict=True), seed=config.seed)
    right = [
        classifier.names[number] == kind
        for number, (_, kind) in zip(classifier.classify([text for text, _ in test]), test, strict=True)
    ]
    majority = Counter(kind for _, kind in test).most_common(1)[0][1] / len(test)
    measured = {"accuracy": sum(right) / len(test), "majority": majority, "held_out": len(test)}
    return classifier, {name: round(value, 4) for name, value in measured.items()}


def _labelled(config: Config, tally: Tally) -> Sequence[tuple[str, str]]:
    from luban.errors import DataError

    found = list[tuple[str, str]]()
    for where, value, text in _instructions(config.labelled, config, tally):
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind:
            found.append((text, kind))
        else:
            tally.reject(DataError("a labelled instruction needs a text 'type'", where=where), value)
    return found


def _read(paths: Sequence[Path], classifier: TypeClassifier, config: Config, tally: Tally) -> Instructions:
    from luban.errors import DataError

    found = [(value, text) for _, value, text in _instructions(paths, config, tally)]
    if not found:
        raise DataError(f"there is no instruction in it; the first: {tally.rejected[-1]}", where=paths[0])
    return Instructions([value for value, _ in found], classifier.classify([text for _, text in found]))


def _instructions(paths: Sequence[Path], config: Config, tally: Tally) -> Iterator[tuple[str, Any, str]]:
    """Place, value and instruction of each row that has one; the others are rejected."""
    from luban.data.progress import announce
    from luban.data.row_files import read_raw
    from luban.data.task_types import instruction_in
    from luban.errors import DataError

    for path in paths:
        for raw in announce(read_raw(path), stage="data balance", noun="rows"):
            try:
                text = instruction_in(raw.sound(), raw.where, config.columns)
            except DataError as error:
                tally.reject(error, raw.value)
                continue
            tally.keep()
            yield raw.where, raw.value, text


def _line(row: Any, kind: str) -> str:
    """The row as it was, with its kind as `type` unless it says one itself."""
    row = {"messages": row} if isinstance(row, list) else row
    # Escaped, as a row may hold half of a surrogate pair.
    return json.dumps({**row, "type": row.get("type") or kind}) + "\n"


def _warn(metrics: dict[str, Any]) -> None:
    kinds = metrics["kinds"]
    missing = [
        f"{name} ({kind['log']:.1%} of the log)"
        for name, kind in kinds.items()
        if kind["log"] and not kind["pool"]
    ]
    if missing:
        print(f"data balance: the pool has no {', '.join(missing)}", file=sys.stderr)
    if metrics["rows"] < 0.1 * metrics["pool_rows"]:
        scarce = max(kinds, key=lambda name: kinds[name]["epochs"])
        print(
            f"data balance: '{scarce}' is scarce in the pool and holds all others down to {metrics['rows']:,} rows:"
            " a larger --max-epochs repeats it, --rows goes on without it",
            file=sys.stderr,
        )
