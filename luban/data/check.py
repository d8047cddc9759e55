"""`luban data check`: conversation rows as the model will see them, before a run is spent on them.

Most failed fine-tunes fail here: a template that differs, an answer without its end, a mask that trains the
prompt or nothing. So the first rows are shown rendered and masked, and the template is put to the proof.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge

if TYPE_CHECKING:
    from rich.text import Text

    from luban.data.conversations import Example
    from luban.tokenizers.files import FileTokenizer

BINS = 12
BAR = 40
SHOWN_REJECTIONS = 10


@dataclass(frozen=True, kw_only=True)
class Config:
    """Show conversation rows as the model will see them: rendered and masked."""

    POSITIONAL: ClassVar[str] = "data"

    data: Path
    """A file or folder of rows: messages, sharegpt, alpaca, prompt/completion or text, as for `luban sft`."""
    model: Path
    """The model or tokenizer folder whose chat template renders them."""
    rows: Annotated[int, Ge(0)] = 3
    """How many rows to show."""
    max_tokens: Annotated[int, Ge(2)] = 1024
    """Cut rows that are longer, as training will."""
    loss_on: Literal["assistant", "last", "all"] = "assistant"
    """Learn every answer, only the last one, or all tokens."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What the rows call their entries: `columns.prompt=question columns.completion=answer`."""


def run(config: Config) -> dict[str, Any]:
    """Render and mask every row; returns counts, lengths, the first rows in pieces, and the template's proofs."""
    from luban.data.conversations import read_conversations, to_example
    from luban.data.progress import announce
    from luban.data.rejected import Tally
    from luban.data.template_proofs import TemplateProofs
    from luban.errors import DataError
    from luban.tokenizers.files import load

    tokenizer, tally = load(config.model), Tally()
    proofs, formats = TemplateProofs(tokenizer), Counter[str]()
    lengths: list[int] = []
    shown: list[dict[str, Any]] = []
    trained = 0
    rows = read_conversations(config.data, columns=config.columns, reject=tally.reject)
    for row in announce(rows, stage="data check", noun="rows"):
        try:
            example = to_example(tokenizer, row, max_tokens=config.max_tokens, loss_on=config.loss_on)
        except DataError as error:
            tally.reject(error, row.raw)
            continue
        tally.keep(truncated=example.truncated)
        formats[row.format] += 1
        lengths.append(len(example.ids))
        trained += int(example.mask.sum())
        if len(shown) < config.rows:
            shown.append({"where": example.where, "pieces": pieces(tokenizer, example)})
        proofs.add(row, example)
    return {
        "rows": tally.rows,
        "kept": tally.kept,
        "truncated": tally.truncated,
        "rejected": [str(rejected) for rejected in tally.rejected],
        "formats": dict(formats),
        "max_tokens": config.max_tokens,
        "tokens": sum(lengths),
        "trained_tokens": trained,
        "trained_share": round(trained / sum(lengths), 4) if lengths else 0.0,
        "lengths": quantiles(lengths),
        "histogram": histogram(lengths),
        "template": proofs.holds or None,
        "template_failed_at": proofs.failed_at,
        "shown": shown,
    }


def pieces(tokenizer: FileTokenizer, example: Example) -> list[dict[str, Any]]:
    """The row's text, special tokens included, cut where learning begins and ends."""
    import numpy as np

    borders = np.flatnonzero(np.diff(example.mask)) + 1
    parts = zip(np.split(example.ids, borders), np.split(example.mask, borders), strict=True)
    return [
        {"text": tokenizer.decode(ids.tolist(), skip_special=False), "trained": bool(mask[0])}
        for ids, mask in parts
    ]


def quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """The length in tokens that half, 95 % and all of the rows do not exceed."""
    ordered = sorted(lengths)
    shares = {"median": 0.5, "p95": 0.95, "longest": 1.0}
    return {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in shares.items() if ordered}


def histogram(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Rows by length in tokens: (from, up to and including, rows), in steps of equal width."""
    if not lengths:
        return []
    width = -(-max(lengths) // BINS)
    counts = [0] * BINS
    for length in lengths:
        counts[(length - 1) // width] += 1
    last = max(number for number, count in enumerate(counts) if count)
    return [(number * width + 1, (number + 1) * width, counts[number]) for number in range(last + 1)]


def show(results: dict[str, Any]) -> None:
    """The rows with their learnt parts in green (in [[brackets]] where there is no colour), then the counts."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for row in results["shown"]:
        console.print(f"--- {row['where']}", style="bold", markup=False)
        console.print(coloured(row["pieces"], in_colour=console.color_system is not None))
    print("\n".join(_summary(results)))


def coloured(parts: Sequence[dict[str, Any]], *, in_colour: bool) -> Text:
    """The pieces as one styled text: what is learnt in green, or in brackets."""
    from rich.text import Text

    text = Text()
    for part in parts:
        marked = part["trained"] and not in_colour
        style = "green" if part["trained"] else "dim"
        text.append(f"[[{part['text']}]]" if marked else part["text"], style=style)
    return text


def _summary(results: dict[str, Any]) -> list[str]:
    formats = ", ".join(f"{count:,} {name}" for name, count in results["formats"].items())
    lengths = ", ".join(f"{name} {length:,}" for name, length in results["lengths"].items())
    lines = [
        "",
        f"rows       {results['rows']:,} read, {results['kept']:,} kept, {len(results['rejected']):,} rejected, "
        f"{results['truncated']:,} cut at {results['max_tokens']} tokens",
        f"formats    {formats or 'none'}",
        f"tokens     {results['tokens']:,}, of which {results['trained_tokens']:,} are learnt "
        f"({results['trained_share']:.1%})",
        f"lengths    {lengths or 'none'}",
    ]
    for name, holds in (results["template"] or {}).items():
        failed = f"NO, first at {results['template_failed_at'].get(name)}"
        if name == "generation_blocks":
            failed = "none: answers are found by the difference they make"
        lines.append(f"template   {name.replace('_', ' ')}: {'yes' if holds else failed}")
    most = max((count for _, _, count in results["histogram"]), default=1)
    for low, high, count in results["histogram"]:
        lines.append(f"{low:>6}-{high:<6} {'#' * -(-count * BAR // most):<{BAR}} {count:,}")
    rejected = results["rejected"]
    lines += [f"rejected   {reason}" for reason in rejected[:SHOWN_REJECTIONS]]
    if len(rejected) > SHOWN_REJECTIONS:
        lines.append(f"           and {len(rejected) - SHOWN_REJECTIONS:,} more (all with --json)")
    return lines
