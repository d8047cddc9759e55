"""`luban data prepare`: raw files through a recipe to clean documents, with a held-out part for evaluation.

Every stage of the recipe keeps what it dropped, with the reason, under OUT/stages; run again, only what a change
touches is done again, and a killed run goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from luban.data.document import RecordError
from luban.data.sources.reading import Options, Slice
from luban.errors import ConfigError, DataError
from luban.folder import RUN_FILE, AlreadyDone, describe, finish, read_json, write_json, write_text

if TYPE_CHECKING:
    from luban.data.factory.run import Done


@dataclass(frozen=True, kw_only=True)
class Config:
    """Raw files to clean documents: `train-*.jsonl` and `holdout.jsonl`, with a card and all drops on record."""

    data: tuple[Path, ...]
    """Files or folders of any format that Luban reads (docs/data.md lists them)."""
    out: Path
    """The documents folder to make; an earlier run's finished stages are used again."""
    recipe: str = "light"
    """What is done to them: a preset, or the path of a YAML file. Presets: light, books, refinedweb, slimpajama, roots,
    ccnet, gopher, code, zh-web."""
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Change settings of the recipe's steps: steps.language.keep=[zh] steps.minhash.threshold=0.7."""
    reading: Options = field(default_factory=Options)
    """How raw files are read."""
    holdout: Annotated[float, Ge(0)] = 0.02
    """What to keep for evaluation: a share of the documents (below 1), or their number."""
    seed: int = 0
    """Another seed holds out other documents."""
    on_error: Literal["quarantine", "raise"] = "quarantine"
    """A malformed record goes to `quarantine.jsonl` with the reason, or stops the run."""
    engine: Literal["pool", "ray"] = "pool"
    """Where parts are worked on: processes of this machine, or Ray (RAY_ADDRESS names a cluster)."""
    workers: Annotated[int, Ge(0)] = 0
    """Processes; 0 takes one per core."""
    memory: Annotated[float, Ge(0.1)] = 2.0
    """Gigabytes that all processes together may take, about."""
    part_mb: Annotated[float, Ge(0.01)] = 32.0
    """Megabytes of raw input in a part: the unit of parallel work and of resuming."""


def run(config: Config) -> dict[str, Any]:
    """Make the documents folder; returns counts of documents, characters, changes and drops by reason."""
    from luban.data.card import write_card
    from luban.data.factory.engine import workers_here
    from luban.data.factory.part import Reading
    from luban.data.factory.publish import QUARANTINE, join, publish
    from luban.data.factory.report import facts
    from luban.data.factory.rows import Files
    from luban.data.factory.run import Means, run_stages
    from luban.data.sources import group_slices

    recipe = _recipe(config)
    reading = Reading(config.reading, strict=config.on_error == "raise")
    pieces, unread = _slices(config)
    inputs = _identity({piece.path for piece in pieces})
    key = _key(inputs, config)
    _claim(config, inputs, recipe.key(key))
    means = Means(config.engine, workers_here(config.workers), int(config.memory * 1e9))
    parts = group_slices(pieces, int(config.part_mb * 1e6))
    write_text(config.out / "recipe.yaml", _yaml(recipe), durable=False)
    stages = run_stages(recipe, parts, key, config.out, reading=reading, means=means)
    last = [Files(stages[-1].folder, index) for index in range(len(parts))]
    publish([part.of("kept") for part in last], config.out, means)
    every = [Files(stage.folder, i).of("quarantine") for stage in stages for i in range(len(parts))]
    join(every, config.out / QUARANTINE, first=b"".join(unread))
    results = {**_sides(stages[-1]), **_summary(stages, unread), **_files(config, inputs)}
    _check_sides(config, results)
    write_card(config.out, facts(recipe, stages, inputs, config.out.name))
    finish(config.out, results)
    return results


def show(results: dict[str, Any]) -> None:
    """The way through the stages as a table, and the drops by reason."""
    from rich.console import Console
    from rich.table import Table

    table = Table("stage")
    for name in ("documents", "stay", "of all", "megabytes", "of all "):
        table.add_column(name, justify="right")
    first = results["stages"][0]
    table.add_row("raw", f"{first['documents_in']:,}", "", "", f"{first['bytes_in'] / 1e6:,.1f}", "")
    for stage in results["stages"]:
        table.add_row(stage["name"], *_row(stage, first))
    console = Console()
    console.print(table)
    for title in ("dropped", "cleaned", "quarantined"):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in results[title].items())
        console.print(f"{title:<12}{reasons or 'none'}", highlight=False, soft_wrap=True)
    for side in ("train", "holdout"):
        counts = results[side]
        print(f"{side:<11}{counts['documents']:>12,} documents {counts['chars']:>15,} characters")
    print(f"files      {results['files']:,} read, {results['ignored_files']:,} of other kinds left alone")


def _recipe(config: Config) -> Any:
    """The recipe, ending in a split; the split's settings are the command's own."""
    from luban.data.factory.recipe import Stage, load_recipe
    from luban.data.factory.split import Split

    split = ("split", Split(holdout=config.holdout, seed=config.seed))
    recipe = load_recipe(config.recipe, config.steps)
    stages = [
        dataclasses.replace(stage, corpus=split) if stage.corpus and stage.corpus[0] == "split" else stage
        for stage in recipe.stages
    ]
    if not any(stage.corpus and stage.corpus[0] == "split" for stage in stages):
        stages.append(Stage("split", split, ()))
    return dataclasses.replace(recipe, stages=tuple(stages))


def _slices(config: Config) -> tuple[list[Slice], list[bytes]]:
    """What is to be read, in pieces, and a quarantine row for everything that cannot be."""
    from luban.data.factory.part import rejected_row
    from luban.data.sources import split_source

    unread: list[bytes] = []

    def reject(error: RecordError, shown: str) -> None:
        if config.on_error == "raise":
            raise error
        unread.append(rejected_row(error, shown))

    size = int(config.part_mb * 1e6)
    split = (split_source(path, size, options=config.reading, reject=reject) for path in config.data)
    return [piece for pieces in split for piece in pieces], unread


def _identity(files: Iterable[Path]) -> dict[str, str]:
    """Each file with its size and time of change: reading a terabyte twice only to hash it would be dear."""
    stats = {str(file): file.stat() for file in sorted(files)}
    return {name: f"{stat.st_size} bytes, changed {stat.st_mtime_ns}" for name, stat in stats.items()}


def _key(inputs: dict[str, str], config: Config) -> str:
    facts = repr((sorted(inputs.items()), config.reading, config.on_error, config.part_mb))
    return hashlib.sha256(facts.encode()).hexdigest()


def _claim(config: Config, inputs: dict[str, str], key: str) -> None:
    """Take the folder for this run; raises AlreadyDone if it is finished there, ConfigError if it is not ours."""
    mine = {**describe("data prepare", config, ()), "inputs": inputs, "key": key}
    out = config.out
    if out.is_file():
        raise ConfigError("the output is a file, not a folder", where=out, hint="choose another --out")
    if out.is_dir() and any(out.iterdir()):
        theirs = read_json(out / RUN_FILE) if (out / RUN_FILE).is_file() else {}
        if theirs.get("stage") != "data prepare":
            raise ConfigError(
                "the output folder is not empty and not one of data prepare",
                where=out,
                hint="choose another --out",
            )
        if theirs["done"] and theirs["key"] == key:
            raise AlreadyDone(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RUN_FILE, mine)


def _yaml(recipe: Any) -> str:
    import yaml

    return yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True)


def _summary(stages: Sequence[Done], unread: Sequence[bytes]) -> dict[str, Any]:
    """Drops, changes and quarantined records of all stages by their code, and each stage's figures."""
    totals = {name: Counter[str]() for name in ("dropped", "cleaned", "quarantined")}
    for stage in stages:
        for reasons in stage.counts["dropped"].values():
            totals["dropped"].update({reason: count["documents"] for reason, count in reasons.items()})
        for rules in stage.counts["changed"].values():
            totals["cleaned"].update(rules)
        totals["quarantined"].update(stage.counts["quarantined"])
    totals["quarantined"].update(json.loads(row)["reason"] for row in unread)
    figures = ("documents_in", "documents_kept", "bytes_in", "bytes_kept", "dropped")
    rows = [{"name": stage.name, **{name: stage.counts[name] for name in figures}} for stage in stages]
    return {**{name: dict(sorted(total.items())) for name, total in totals.items()}, "stages": rows}


def _sides(last: Done) -> dict[str, Any]:
    """Documents and characters of train and holdout."""
    from luban.data.factory.tally import SIDES

    return {side: {"documents": 0, "chars": 0, **last.counts["sides"].get(side, {})} for side in SIDES}


def _files(config: Config, inputs: dict[str, str]) -> dict[str, int]:
    from luban.data.sources import everything_in

    everything = sum(len(everything_in(path)) for path in config.data)
    return {"files": len(inputs), "ignored_files": everything - len(inputs)}


def _row(stage: dict[str, Any], first: dict[str, Any]) -> list[str]:
    kept, came = stage["documents_kept"], stage["documents_in"]
    share = f"{kept / came:.1%}" if came else ""
    return [
        f"{kept:,}",
        share,
        f"{kept / max(first['documents_in'], 1):.1%}",
        f"{stage['bytes_kept'] / 1e6:,.1f}",
        f"{stage['bytes_kept'] / max(first['bytes_in'], 1):.1%}",
    ]


def _check_sides(config: Config, results: dict[str, Any]) -> None:
    if not results["train"]["documents"]:
        held = results["holdout"]["documents"]
        lost = {**results["dropped"], **results["quarantined"]}
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(lost.items())) or "none dropped"
        raise DataError(
            f"no document is left to train on: {held} held out; {reasons}",
            where=", ".join(map(str, config.data)),
            hint="a smaller --holdout" if held else f"see {config.out}/stages/*/rejected",
        )
    if config.holdout and not results["holdout"]["documents"]:
        print("data prepare: too few documents, none was held out; --holdout 1 takes one", file=sys.stderr)
