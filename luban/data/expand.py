"""`luban data expand`: a labelled data set to instructions, each row asked in several ways (FLAN).

The same row comes in four styles: asked plainly, behind worked examples of other rows, with its reasons before
the answer, and both. A model tuned on many tasks put so follows instructions it has not seen.

Source: Wei et al. 2022 (arXiv:2109.01652); Longpre et al. 2023 (arXiv:2301.13688) for mixing the four styles.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

from luban.folder import stage_folder

if TYPE_CHECKING:
    import numpy as np

    from luban.data.rejected import Tally
    from luban.data.task_template import TaskTemplate, Way

STYLES = {
    "zero_shot": ("direct", False),
    "few_shot": ("direct", True),
    "chain_of_thought": ("chain_of_thought", False),
    "few_shot_chain": ("chain_of_thought", True),
}
"""Manner of answering, and whether worked examples precede."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Put a labelled data set into words: conversations to tune on."""

    data: tuple[Path, ...]
    """Labelled rows with any keys: .jsonl .json .csv .tsv .parquet files, or folders of them."""
    templates: tuple[str, ...]
    """Ways to ask: shipped ones (arithmetic, choice, definition, inference, paraphrase, question, sentiment,
    summary, topic), or YAML files of your own; with several, each row is put in all of them."""
    out: Path
    """The folder to make: `rows.jsonl`, and `rejected.jsonl` with rows that could not be put into words."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The rows' own names for the templates' fields: `columns.text=review columns.label=stars`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Words for the labels, in place of the templates' own: `labels.0=negative labels.1=positive`."""
    zero_shot: Annotated[int, Ge(0)] = 1
    """Ways in which each row is asked plainly, each by another template."""
    few_shot: Annotated[int, Ge(0)] = 1
    """Ways in which each row is asked behind worked examples of other rows."""
    chain_of_thought: Annotated[int, Ge(0)] = 1
    """Ways in which each row is answered with its reasons first, where rows and templates have them."""
    few_shot_chain: Annotated[int, Ge(0)] = 1
    """The same behind worked examples."""
    shots: Annotated[int, Ge(1)] = 3
    """Worked examples per row."""
    max_rows: Annotated[int, Gt(0)] | None = None
    """Use only this many rows, drawn with `seed`."""
    seed: Annotated[int, Ge(0)] = 0
    """Another seed draws other templates and worked examples."""


@dataclass(frozen=True)
class Labelled:
    """A row's fields under the templates' names."""

    where: str
    fields: Mapping[str, Any]
    raw: Any


def run(config: Config) -> dict[str, Any]:
    """Make the folder; returns rows read, made and rejected, the made ones by style and template."""
    from luban.data.rejected import Tally, write_rejected
    from luban.data.task_template import open_templates
    from luban.errors import ConfigError, DataError

    tasks = [open_templates(name, config.labels) for name in config.templates]
    if not any(getattr(config, style) for style in STYLES):
        raise ConfigError("nothing is asked for", where=f"settings {', '.join(STYLES)}", hint="zero_shot=1")
    inputs = [*config.data, *(Path(name) for name in config.templates if Path(name).is_file())]
    with stage_folder(config.out, stage="data expand", config=config, inputs=inputs) as (folder, metrics):
        tally, made = Tally(), list[dict[str, Any]]()
        for task in tasks:
            made += _expand(task, config, tally)
        if not made:
            first = tally.rejected[0]
            what = f"none of {tally.rows} rows could be put into words; the first: {first}"
            raise DataError(what, hint=first.error.hint or "columns.FIELD=YOURS names the rows' own keys")
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in made]
        (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
        write_rejected(folder, tally)
        metrics.update(_counts(made, tally))
    return metrics


def show(results: dict[str, Any]) -> None:
    """What was made, by style and by template."""
    print(f"rows       {results['rows']:,} read, {results['rejected']:,} rejected, {results['made']:,} made")
    for group in ("styles", "templates"):
        for name, count in results[group].items():
            print(f"{group[:-1]:<10} {name}: {count:,}")
    for reason in results["first_rejected"]:
        print(f"rejected   {reason}")


def _expand(task: TaskTemplate, config: Config, tally: Tally) -> Iterator[dict[str, Any]]:
    """Every row of the data in all its styles."""
    import numpy as np

    from luban.errors import DataError

    rows = _labelled(task, config, tally)
    kept = np.random.default_rng(config.seed).permutation(len(rows))[: config.max_rows]
    rows = [rows[number] for number in sorted(kept)]
    for number, row in enumerate(rows):
        chance = np.random.default_rng([config.seed, number])
        try:
            made = [
                shaped
                for style in STYLES
                for shaped in _in_style(
                    task, style, getattr(config, style), rows, number, config.shots, chance
                )
            ]
        except DataError as error:
            tally.reject(error, row.raw)
            continue
        tally.keep()
        yield from made


def _labelled(task: TaskTemplate, config: Config, tally: Tally) -> list[Labelled]:
    """The rows that have what the templates need, their labels in words and `choices` filled in."""
    from luban.data.progress import announce
    from luban.data.row_files import read_raw
    from luban.errors import DataError

    rows = []
    for path in config.data:
        for raw in announce(read_raw(path), stage="data expand", noun="rows"):
            try:
                rows.append(
                    Labelled(raw.where, _fields(task, raw.sound(), config.columns, raw.where), raw.value)
                )
            except DataError as error:
                tally.reject(error, raw.value)
    labels = [*task.labels.values()] or sorted(
        {str(row.fields["label"]) for row in rows if "label" in row.fields}
    )
    choices = {"choices": [*dict.fromkeys(labels)]} if labels else {}
    return [Labelled(row.where, {**choices, **row.fields}, row.raw) for row in rows]


def _fields(task: TaskTemplate, value: Any, columns: Mapping[str, str], where: str) -> dict[str, Any]:
    from luban.errors import DataError, nearest

    if not isinstance(value, dict):
        raise DataError("a labelled row is an object", where=where)
    fields = {**value, **{ours: value[theirs] for ours, theirs in columns.items() if theirs in value}}
    if str(fields.get("choices")).startswith("["):  # a cell of a table
        fields["choices"] = _choices(fields["choices"], where)
    for name in task.fields:
        if fields.get(name) in (None, "", []):
            known = nearest(columns.get(name, name), map(str, value))
            what = f"there is no '{columns.get(name, name)}', which the templates '{task.name}' need; {known}"
            raise DataError(what, where=where, hint=f"columns.{name}=YOURS")
    if "label" in task.fields:
        fields["label"] = task.word(fields["label"], where)
    return fields


def _choices(value: Any, where: str) -> list[Any]:
    from luban.errors import DataError

    if isinstance(value, list):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise DataError(f"'choices' is no JSON list: {error.msg}", where=where) from None


def _in_style(
    task: TaskTemplate,
    style: str,
    times: int,
    rows: list[Labelled],
    number: int,
    shots: int,
    chance: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """Row `number`, asked in `times` different ways of this style (fewer if there are fewer)."""
    manner, behind_others = STYLES[style]
    ways, row = task.ways.get(manner, ()), rows[number]
    if manner == "chain_of_thought" and not row.fields.get("rationale"):
        return
    for place in chance.permutation(len(ways))[:times].tolist():
        asked, answer = ways[place].render(row.fields, row.where)
        if behind_others:
            worked = _worked(ways[place], manner, rows, number, shots, asked, chance)
            if not worked:
                continue
            asked = task.with_shots(worked, asked)
        yield {
            "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}],
            "task": task.name,
            "style": style,
            "template": f"{task.name} {manner} {place + 1}",
            "source": row.where,
        }


def _worked(
    way: Way,
    manner: str,
    rows: list[Labelled],
    number: int,
    shots: int,
    asked: str,
    chance: np.random.Generator,
) -> list[tuple[str, str]]:
    """Question and answer of some other rows, none of which asks the same: the answer must not stand there."""
    from luban.errors import DataError

    worked: list[tuple[str, str]] = []
    for other in dict.fromkeys(chance.integers(len(rows), size=8 * shots).tolist()):
        fields = rows[other].fields
        if len(worked) == shots:
            break
        if other == number or (manner == "chain_of_thought" and not fields.get("rationale")):
            continue
        try:
            pair = way.render(fields, rows[other].where)
        except DataError:
            continue  # it is rejected, with its reason, when its own turn comes
        if pair[0] != asked:
            worked.append(pair)
    return worked


def _counts(made: list[dict[str, Any]], tally: Tally) -> dict[str, Any]:
    return {
        "rows": tally.rows,
        "rejected": len(tally.rejected),
        "made": len(made),
        "styles": dict(Counter(row["style"] for row in made)),
        "templates": dict(sorted(Counter(row["template"] for row in made).items())),
        "first_rejected": [str(rejected) for rejected in tally.rejected[:5]],
    }
