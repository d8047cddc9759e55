"""Stage `eval`: what a model knows, as a table.

Held-out documents give bits per byte beside baselines; a file of questions gives the share answered right.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from luban.device import DeviceConfig
from luban.errors import ConfigError
from luban.lm import LM, OpenLM

if TYPE_CHECKING:
    from luban.data.document import Document


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Evaluate a model folder."""

    model: str
    """Model folder."""
    data: tuple[Path, ...] = ()
    """Held-out documents: folders from `luban data prepare` (their holdout.jsonl) or JSONL files."""
    baselines: tuple[Path, ...] = ()
    """Training documents; n-gram and gzip baselines are counted on them and shown beside the model."""
    questions: Path | None = None
    """Conversation rows whose last turn is the right answer."""
    max_documents: Annotated[int, Ge(1)] | None = 200
    """Score at most this many documents, drawn evenly."""
    max_questions: Annotated[int, Ge(1)] | None = 300
    """Ask at most this many questions, from the beginning of the file."""
    out: Path | None = None
    """Folder for results.json; without it they are only printed."""


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """The results as a dict: `bits_per_byte` by name, `questions`, and hashes of what was measured."""
    from luban.folder import fingerprint, stage_folder, write_json

    if not config.data and config.questions is None:
        raise ConfigError(
            "nothing to measure", where="luban eval", hint="--data DOCUMENTS or --questions FILE"
        )
    files = [*config.data, *([config.questions] if config.questions else [])]
    inputs = [path for path in (Path(config.model), *files, *config.baselines) if path.exists()]
    with contextlib.ExitStack() as stack:
        place = None
        if config.out is not None:
            place = stack.enter_context(stage_folder(config.out, stage="eval", config=config, inputs=inputs))
        lm = open_lm(config.model)
        results: dict[str, Any] = {"model": config.model}
        if config.data:
            results["bits_per_byte"] = _bits(config, lm)
        if config.questions is not None:
            results["questions"] = _questions(config, lm)
        results["sha256"] = {str(path): fingerprint(path) for path in files}
        if place is not None:
            work, metrics = place
            write_json(work / "results.json", results)
            metrics.update(results)
    return results


def show(results: dict[str, Any]) -> None:
    """Print what was measured as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if "bits_per_byte" in results:
        table = Table("", "bits per byte", "95 % interval", "perplexity per token", title="held-out text")
        for name, row in results["bits_per_byte"].items():
            interval = "" if row["low"] == row["high"] else f"{row['low']:.3f} to {row['high']:.3f}"
            perplexity = f"{row['perplexity']:,.1f}" if row["tokens"] else ""
            table.add_row(name, f"{row['per_byte']:.3f}", interval, perplexity)
        console.print(table)
    if "questions" in results:
        row = results["questions"]
        share = f"{row['correct']} of {row['asked']} right ({row['correct'] / row['asked']:.1%}"
        print(f"questions: {share}, 95 % interval {row['low']:.1%} to {row['high']:.1%})")
        notes = f"{row['shots']} examples shown; {row['normalisation']}"
        print(f"  always the commonest answer: {row['majority']:.1%}; {notes}")
        first = row["first"]
        asked = first["messages"][-1]["content"].replace("\n", " ")
        print(f"  the first one: {asked!r}: expected {first['expected']!r}, given {first['given']!r}")


def _bits(config: Config, lm: LM) -> dict[str, Any]:
    from luban.data.sources import read_documents
    from luban.evaluation.baselines import baseline_bits
    from luban.evaluation.bits import model_bits
    from luban.tokenizers.files import load

    held_out = _evenly(list(read_documents(config.data, holdout=True)), config.max_documents)
    found = {"model": model_bits(lm, held_out)}
    if config.baselines:
        train = list(read_documents(config.baselines))
        found |= baseline_bits(load(Path(config.model)), train, held_out)
    return {
        name: {**asdict(row), "perplexity": row.perplexity if row.tokens else None}
        for name, row in found.items()
    }


def _questions(config: Config, lm: LM) -> dict[str, Any]:
    from luban.evaluation.questions import NORMALISATION, ask, read_questions

    assert config.questions is not None
    answers = ask(lm, read_questions(config.questions, config.max_questions))
    return {**asdict(answers), "normalisation": NORMALISATION, "shots": 0}


def _evenly(documents: list[Document], limit: int | None) -> list[Document]:
    """At most `limit` of them, spread over the whole list."""
    if limit is None or len(documents) <= limit:
        return documents
    return [documents[i * len(documents) // limit] for i in range(limit)]
