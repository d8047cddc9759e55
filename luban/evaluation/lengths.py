"""Stage `eval lengths`: perplexity against the length of what a model reads, for one model or several.

The same held-out text is cut into pieces of each length in turn, so every length is measured on the same tokens:
what changes is only how much of the text before it a token sees. A model whose window is shorter than a piece
reads it in windows of its own and sees no further.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from luban.device import DeviceConfig
from luban.errors import DataError
from luban.evaluation.compare import named, panes, results_folder, save_picture
from luban.lm import LM, OpenLM

if TYPE_CHECKING:
    from luban.tokenizers.base import Tokenizer

STAGE, RESULTS, PICTURE = "eval lengths", "lengths.json", "lengths.png"
Curve = dict[int, float]
"""Perplexity per token by the length of the pieces."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Measure perplexity on pieces of several lengths; `--lengths 128 256 512 1024`."""

    models: tuple[str, ...]
    """Model folders."""
    data: tuple[Path, ...]
    """Held-out documents: folders from `luban data prepare` (their holdout.jsonl) or JSONL files."""
    lengths: tuple[Annotated[int, Ge(2)], ...]
    """Tokens of a piece."""
    tokens: Annotated[int, Ge(2)] = 32768
    """Read about so many tokens of text, from the beginning of the documents."""
    out: Path | None = None
    """Folder for lengths.json and the picture lengths.png; without it the table is only printed."""


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """For each model its perplexity by length."""
    from luban.folder import write_json
    from luban.tokenizers.files import load

    text = read_text(config.data)
    with results_folder(config, stage=STAGE, files=config.data) as (folder, metrics):
        curves = {
            name: perplexities(open_lm(model), load(Path(model)), text, config.lengths, tokens=config.tokens)
            for name, model in named(config.models).items()
        }
        results = {"perplexity": curves}
        if folder is not None:
            write_json(folder / RESULTS, results)
            draw(curves, folder / PICTURE)
            metrics.update(results)
    return results


def show(results: dict[str, Any]) -> None:
    """A row for each model."""
    from rich.console import Console
    from rich.table import Table

    curves = results["perplexity"]
    lengths = next(iter(curves.values()))
    table = Table("tokens read at once", *(f"{int(length):,}" for length in lengths), title="perplexity")
    for name, curve in curves.items():
        table.add_row(name, *(f"{value:,.2f}" for value in curve.values()))
    Console().print(table)


def read_text(paths: Sequence[Path]) -> str:
    """All held-out documents one after another; raises DataError where there is nothing but space."""
    from luban.data.sources import read_documents

    text = "\n\n".join(document.text for document in read_documents(paths, holdout=True))
    if not text.strip():
        raise DataError("no held-out text", where=paths[0] if paths else "setting 'data'")
    return text


def perplexities(lm: LM, tokenizer: Tokenizer, text: str, lengths: Sequence[int], *, tokens: int) -> Curve:
    """What `lm` makes of the first `tokens` tokens of `text`, in pieces of each of `lengths`.

    Raises DataError where the text is shorter than the longest piece.
    """
    longest = max(lengths)
    start = text[: fitting(text, max(tokens, longest), tokenizer)]
    if len(start) == len(text) and len(tokenizer.encode(text)) < longest:
        what = f"the held-out text has {len(tokenizer.encode(text))} tokens, one piece {longest}"
        raise DataError(what, where="setting 'data'", hint="more documents, or smaller --lengths")
    return {length: perplexity(lm, list(pieces(start, length, tokenizer))) for length in lengths}


def perplexity(lm: LM, texts: Sequence[str]) -> float:
    """Of a token of `texts`, each read from its own beginning."""
    scores = lm.score([("", text) for text in texts])
    return math.exp(-sum(score.total for score in scores) / sum(len(score.logps) for score in scores))


def pieces(text: str, length: int, tokenizer: Tokenizer) -> Iterator[str]:
    """`text` cut, between words where there are any, into pieces of at most `length` tokens that join to it."""
    while text:
        most = max(1, fitting(text, length, tokenizer))
        space = text.rfind(" ", 1, most + 1) if most < len(text) else -1
        cut = space if space > 0 else most
        yield text[:cut]
        text = text[cut:]


def fitting(text: str, length: int, tokenizer: Tokenizer) -> int:
    """How many characters of `text`, from its beginning, are at most `length` tokens."""
    most = 4 * length
    while most < len(text) and len(tokenizer.encode(text[:most])) <= length:
        most *= 2
    places = range(min(most, len(text)) + 1)
    return bisect.bisect_right(places, length, key=lambda place: len(tokenizer.encode(text[:place]))) - 1


def draw(curves: Mapping[str, Curve], path: Path) -> None:
    """Perplexity against length, both by powers."""
    figure, (pane,) = panes(1, width=7, height=4.5)
    for name, curve in curves.items():
        pane.plot([int(length) for length in curve], list(curve.values()), marker="o", label=name)
    lengths = sorted({int(length) for curve in curves.values() for length in curve})
    pane.set(xscale="log", yscale="log", xlabel="tokens read at once", ylabel="perplexity per token")
    pane.set_xticks(lengths, [str(length) for length in lengths])
    pane.set_xticks([], minor=True)
    for formatted in (pane.yaxis.set_major_formatter, pane.yaxis.set_minor_formatter):
        formatted("{x:g}")
    pane.grid(alpha=0.3)
    pane.legend()
    save_picture(figure, path)
