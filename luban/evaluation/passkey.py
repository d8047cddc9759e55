"""Stage `eval passkey`: does a model find one line in a long text? By depth and length, as a heat map.

A number is hidden at some depth of a filler text and asked for at the end. It counts as found when each of its
tokens is the likeliest next one, which is what greedy decoding would write.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from luban.device import DeviceConfig
from luban.errors import ConfigError, DataError
from luban.evaluation.compare import named, panes, results_folder, save_picture
from luban.lm import LM, OpenLM

if TYPE_CHECKING:
    from luban.tokenizers.base import Tokenizer

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key? The pass key is"
"""Source of the three: Mohtashami and Jaggi 2023, appendix (arXiv:2305.16300)."""
STAGE, RESULTS, PICTURE = "eval passkey", "passkey.json", "passkey.png"


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Hide a number at several depths of texts of several lengths, and ask for it."""

    models: tuple[str, ...]
    """Model folders."""
    lengths: tuple[Annotated[int, Ge(16)], ...]
    """Tokens of a whole prompt, its answer included; the models' windows must hold them."""
    depths: tuple[Annotated[float, Ge(0), Le(1)], ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where the number stands: 0 is at the beginning of the filler, 1 right before the question."""
    samples: Annotated[int, Ge(1)] = 10
    """Prompts for each depth and length; the same ones for every model of one vocabulary."""
    digits: Annotated[int, Ge(1), Le(18)] = 5
    """Of the number; guessing finds one in 9 * 10 ** (digits - 1)."""
    filler: tuple[Path, ...] = ()
    """Documents to hide it in; none takes the paper's five sentences, again and again."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the numbers, and of where in the filler a prompt begins."""
    out: Path | None = None
    """Folder for passkey.json and the heat map passkey.png; without it the table is only printed."""


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """A prompt that ends in the question, and the number that answers it, a space before it."""

    prompt: str
    answer: str


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """For each model the share of numbers found: a row for each depth, a value in it for each length."""
    from luban.folder import write_json
    from luban.tokenizers.files import load

    filler = read_filler(config.filler)
    with results_folder(config, stage=STAGE, files=config.filler) as (folder, metrics):
        results: dict[str, Any] = {
            "lengths": config.lengths,
            "depths": config.depths,
            "samples": config.samples,
        }
        results["found"] = {
            name: retrieval(open_lm(model), cells(config, filler, load(Path(model))))
            for name, model in named(config.models).items()
        }
        if folder is not None:
            write_json(folder / RESULTS, results)
            draw(results, folder / PICTURE)
            metrics.update(results)
    return results


def show(results: dict[str, Any]) -> None:
    """A table for each model."""
    from rich.console import Console
    from rich.table import Table

    for name, rows in results["found"].items():
        table = Table("depth", *(f"{length:,} tokens" for length in results["lengths"]), title=name)
        for depth, row in zip(results["depths"], rows, strict=True):
            table.add_row(f"{depth:.0%}", *(f"{share:.0%}" for share in row))
        table.caption = f"share of numbers found, of {results['samples']} for each value"
        Console().print(table)


def read_filler(paths: Sequence[Path]) -> Sequence[str]:
    """The words of all documents of `paths`, or of the paper's sentences; raises DataError where there are none."""
    from luban.data.sources import read_documents

    if not paths:
        return FILLER.split()
    words = [word for document in read_documents(paths) for word in document.text.split()]
    if not words:
        raise DataError("no word to hide a number between", where=paths[0])
    return words


def cells(config: Config, filler: Sequence[str], tokenizer: Tokenizer) -> list[list[list[Hidden]]]:
    """The prompts by depth, then by length."""
    return [
        [
            [hidden(config, filler, tokenizer, length, depth, sample) for sample in range(config.samples)]
            for length in config.lengths
        ]
        for depth in config.depths
    ]


def hidden(
    config: Config, filler: Sequence[str], tokenizer: Tokenizer, length: int, depth: float, sample: int
) -> Hidden:
    """One prompt: with as many words of `filler`, from a place on that the seed draws, as `length` tokens hold.

    Raises ConfigError where they do not even hold the number and the question.
    """
    chance = random.Random(f"{config.seed} {length} {depth} {sample}")
    key = str(chance.randrange(10 ** (config.digits - 1), 10**config.digits))
    begin = chance.randrange(len(filler)) if config.filler else 0
    words = [filler[place % len(filler)] for place in range(begin, begin + length)]

    def tokens(count: int) -> int:
        return len(tokenizer.encode(hide(words[:count], key, depth) + f" {key}")) + tokenizer.adds_bos

    count = bisect.bisect_right(range(length + 1), length, key=tokens) - 1
    if count < 0:
        what = f"{length} tokens do not hold the number and the question, which are {tokens(0)}"
        raise ConfigError(what, where="setting 'lengths'")
    return Hidden(prompt=hide(words[:count], key, depth), answer=f" {key}")


def hide(words: Sequence[str], key: str, depth: float) -> str:
    """A text of `words`, the line with `key` at `depth` of it, and the question."""
    place = round(depth * len(words))
    return " ".join((*words[:place], NEEDLE.format(key=key), *words[place:], QUESTION))


def retrieval(lm: LM, asked: Sequence[Sequence[Sequence[Hidden]]]) -> list[list[float]]:
    """The share of answers that `lm` would write, for each cell."""
    pairs = [(one.prompt, one.answer) for row in asked for cell in row for one in cell]
    found = iter([score.greedy for score in lm.score(pairs)])
    return [[sum(next(found) for _ in cell) / len(cell) for cell in row] for row in asked]


def draw(results: Mapping[str, Any], path: Path) -> None:
    """A heat map for each model, from red (none found) to green (all)."""
    figure, maps = panes(len(results["found"]), width=1.2 + 0.7 * len(results["lengths"]), height=3.4)
    for pane, (name, rows) in zip(maps, results["found"].items(), strict=True):
        pane.imshow(rows, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
        pane.set(title=name, xlabel="tokens", ylabel="depth")
        pane.set_xticks(range(len(results["lengths"])), [str(length) for length in results["lengths"]])
        pane.set_yticks(range(len(rows)), [f"{depth:.0%}" for depth in results["depths"]])
        for down, across in itertools.product(range(len(rows)), range(len(rows[0]))):
            pane.text(across, down, f"{rows[down][across]:.0%}", ha="center", va="center", fontsize=8)
    save_picture(figure, path)
