"""`luban data check`: conversation rows as the model will see them, before a run is spent on them.

Most failed fine-tunes fail here: a template that differs, an answer without its end, a mask that trains the
prompt or nothing. So the first rows are shown rendered and masked, and the template is put to the proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """A file of rows: messages, sharegpt, alpaca, prompt/completion or text; .jsonl or .json, also .gz .zst."""
    model: Path
    """The model or tokenizer folder whose chat template renders them."""
    rows: Annotated[int, Ge(0)] = 3
    """How many rows to show."""
    max_tokens: Annotated[int, Ge(2)] = 1024
    """Cut rows that are longer, as training will."""
    loss_on: Literal["assistant", "last", "all"] = "assistant"
    """Learn every answer, only the last one, or all tokens."""


def run(config: Config) -> dict[str, Any]:
    """Render and mask every row; returns counts, lengths, the first rows in pieces, and the template's proofs."""
    from luban.data.conversations import Tally, read_conversations, to_example
    from luban.data.progress import announce
    from luban.errors import DataError
    from luban.tokenizers.files import load

    tokenizer, tally = load(config.model), Tally()
    lengths: list[int] = []
    shown: list[dict[str, Any]] = []
    trained, template = 0, None
    rows = read_conversations(config.data, reject=tally.reject)
    for row in announce(rows, stage="data check", noun="rows"):
        try:
            example = to_example(tokenizer, row, max_tokens=config.max_tokens, loss_on=config.loss_on)
        except DataError as error:
            tally.reject(error)
            continue
        tally.keep(example)
        lengths.append(len(example.ids))
        trained += int(example.mask.sum())
        if len(shown) < config.rows:
            shown.append({"where": example.where, "pieces": pieces(tokenizer, example)})
        if template is None and row.messages and not example.truncated:
            template = prove_template(tokenizer, row.messages, row.tools, example)
    tokens = sum(lengths)
    return {
        "rows": tally.rows,
        "kept": tally.kept,
        "truncated": tally.truncated,
        "rejected": tally.rejected,
        "max_tokens": config.max_tokens,
        "tokens": tokens,
        "trained_tokens": trained,
        "trained_share": round(trained / tokens, 4) if tokens else 0.0,
        "histogram": histogram(lengths),
        "template": template,
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


def prove_template(
    tokenizer: FileTokenizer,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None,
    example: Example,
) -> dict[str, bool]:
    """What holds of the chat template on this conversation.

    `round_trip`: the ids decode to the rendered text. `prefix_preserving`: the prompt of each answer, encoded
    as for generation, begins the training ids. `ends_in_stop`: each learnt answer ends with a stop id.
    `generation_blocks`: the template itself says what the assistant writes.
    """
    ids = example.ids.tolist()
    prompts = (
        tokenizer.render(messages[:number], tools=tools, add_generation_prompt=True)[0]
        for number, message in enumerate(messages)
        if number and message["role"] == "assistant"
    )
    ends = [
        number for number, on in enumerate(example.mask) if on and not example.mask[number + 1 :][:1].any()
    ]
    text = tokenizer.render_text(messages, tools=tools)
    return {
        "generation_blocks": tokenizer.marks_answers(),
        "round_trip": tokenizer.decode(ids, skip_special=False) == text,
        "prefix_preserving": all(ids[: len(prompt)] == prompt for prompt in prompts),
        "ends_in_stop": all(ids[end] in tokenizer.stop_ids for end in ends),
    }


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
    lines = [
        "",
        f"rows       {results['rows']:,} read, {results['kept']:,} kept, {len(results['rejected']):,} rejected, "
        f"{results['truncated']:,} cut at {results['max_tokens']} tokens",
        f"tokens     {results['tokens']:,}, of which {results['trained_tokens']:,} are learnt "
        f"({results['trained_share']:.1%})",
    ]
    for name, holds in (results["template"] or {}).items():
        lines.append(f"template   {name.replace('_', ' ')}: {'yes' if holds else 'NO'}")
    most = max((count for _, _, count in results["histogram"]), default=1)
    for low, high, count in results["histogram"]:
        lines.append(f"{low:>6}-{high:<6} {'#' * -(-count * BAR // most):<{BAR}} {count:,}")
    rejected = results["rejected"]
    lines += [f"rejected   {reason}" for reason in rejected[:SHOWN_REJECTIONS]]
    if len(rejected) > SHOWN_REJECTIONS:
        lines.append(f"           and {len(rejected) - SHOWN_REJECTIONS:,} more (all with --json)")
    return lines
