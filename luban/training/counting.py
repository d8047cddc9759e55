"""Counting in place of training: an n-gram model of token shards, in one pass over all of their texts.

`luban pretrain` comes here for families of the kind `counted`. No torch here: `--help` must answer at once.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from luban.errors import ConfigError
from luban.ngram.settings import Smoothing

if TYPE_CHECKING:
    import numpy as np

    from luban.data.shards import TokenShards
    from luban.models.ngram import NgramConfig, NgramLM
    from luban.tokenizers.files import FileTokenizer

PACK = 1 << 20
"""Tokens handed to the counter at a time."""


@dataclass(frozen=True, kw_only=True)
class CountingConfig(Smoothing):
    """What is counted of a model of the family `ngram`, and how it is smoothed."""

    order: Annotated[int, Ge(1), Le(5)] = 5
    """How many tokens an n-gram has at most."""
    memory_mb: Annotated[int, Ge(1)] = 2000
    """About what counting may take before it goes on disk."""
    arpa: bool = False
    """Write final/model.arpa too, for KenLM and others."""
    from_arpa: Path | None = None
    """Take the model in this file instead of counting; its own order and probabilities."""
    words: Literal["tokens", "numbers"] = "tokens"
    """What the words of ARPA files are: the tokens as the vocabulary spells them, or their numbers."""


def check(config: Any, *, processes: int = 1) -> None:
    """Raise ConfigError for settings of the stage `pretrain` that counting has no use for."""
    if processes > 1:
        what = f"n-grams are counted by one process, and there are {processes}"
        raise ConfigError(what, where="setting 'parallel'", hint="start it without torchrun")
    for name, given in {
        "model": config.model,
        "weights": config.weights,
        "loop.max_steps": config.loop.max_steps,
    }.items():
        if given:
            what = f"{given} has no meaning here: an n-gram model is counted, anew and over all of the data"
            raise ConfigError(what, where=f"setting '{name}'")


def run(
    config: CountingConfig,
    shape: NgramConfig,
    shards: Sequence[TokenShards],
    tokenizer: FileTokenizer,
    out: Path,
    *,
    validate: Callable[[NgramLM], dict[str, float]],
) -> dict[str, Any]:
    """Count (or read an ARPA file), validate and write `<out>/final/`.

    Returns what `pretrain` does, with n-grams and discounts per order.
    """
    from luban.folder import atomic_folder
    from luban.models.base import parameter_count
    from luban.models.ngram_files import read_arpa, write_arpa
    from luban.training.checkpoint import write_model_folder
    from luban.training.metrics import Log

    begun = time.perf_counter()
    words = _words(tokenizer, shape.vocab) if config.words == "tokens" else None
    if config.from_arpa is None:
        model, discounts = count(config, shape, shards, out)
    else:
        model, discounts = read_arpa(config.from_arpa, shape, words), []
    results = {
        "tokens": 0 if config.from_arpa else sum(part.targets for part in shards),
        "train_seconds": round(time.perf_counter() - begun, 2),
        "ngrams": [shape.vocab, *model.config.sizes],
        "discounts": [{"values": list(each.values), "estimated": each.estimated} for each in discounts],
        "parameters": parameter_count(model),
    }
    with atomic_folder(out / "final") as work:
        write_model_folder(work, model, tokenizer)
        if config.arpa:
            write_arpa(model, work / "model.arpa", words)
    results = {**validate(model), **results}
    Log(out, resumed_at=0).write(0, results)
    return results


def count(
    config: CountingConfig, shape: NgramConfig, shards: Sequence[TokenShards], out: Path
) -> tuple[NgramLM, list[Any]]:
    """The model of all texts of `shards`, and its discounts per order; what does not fit the memory goes to `out`.

    Raises ConfigError for shards whose texts end with another id than the model's.
    """
    import dataclasses

    from luban.models.ngram import NgramLM
    from luban.ngram.tokens import TokenCounter

    with _work_folder(out / "counting") as folder:
        memory = config.memory_mb * 1_000_000
        counter = TokenCounter(
            config.order, vocab=shape.vocab, eos=shape.eos_id, folder=folder, memory=memory
        )
        for part in shards:
            if part.eos_id != shape.eos_id:
                what = f"texts end with the id {part.eos_id}, the model's with {shape.eos_id}"
                raise ConfigError(what, where=part.folder)
            for texts in _packs(part):
                counter.add(texts)
            print(f"pretrain: counted {part.tokens:,} tokens of {part.folder}", file=sys.stderr)
        table, discounts = counter.table(config)
    config_made = dataclasses.replace(shape, order=config.order, estimator=config.estimator, sizes=())
    return NgramLM.of(config_made, table), discounts


def _packs(shards: TokenShards) -> Iterator[list[np.ndarray]]:
    """Some texts at a time, each without the token that the shards put before it."""
    first = int(shards.index["bos_id"] is not None)
    pack: list[np.ndarray] = []
    size = 0
    for text in shards:
        pack.append(text[first:])
        size += len(text)
        if size >= PACK:
            yield pack
            pack, size = [], 0
    yield pack


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards; one that a kill left behind is emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _words(tokenizer: FileTokenizer, vocab: int) -> list[str]:
    """Each token as its vocabulary spells it; ids that no token has, by their numbers."""
    import tokenizers

    known = tokenizers.Tokenizer.from_str(tokenizer.to_json()).get_vocab(with_added_tokens=True)
    words = {number: word for word, number in known.items()}
    return [words.get(number, str(number)) for number in range(vocab)]
