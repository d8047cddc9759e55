"""Token shards as the loader takes them: of one vocabulary, each folder with its weight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from luban.data.loader import Source
from luban.data.shards import TokenShards
from luban.errors import ConfigError

Owner = Literal["tokenizer", "model"]
"""Whose vocabulary a stage was given."""
TOKENIZERS: dict[Owner, str] = {"tokenizer": "this tokenizer", "model": "the model's tokenizer"}


def open_shards(path: Path, vocab: int, *, owner: Owner = "tokenizer") -> TokenShards:
    """The shards in `path`; raises ConfigError where they are not of the `vocab` ids that the `owner` has."""
    shards = TokenShards.open(path)
    if shards.vocab != vocab:
        what = f"the shards hold ids of a vocabulary of {shards.vocab}, the {owner} has {vocab}"
        raise ConfigError(what, where=path, hint=f"make the shards again with {TOKENIZERS[owner]}")
    return shards


def shard_sources(
    paths: Sequence[Path], vocab: int, weights: Sequence[float] = (), *, owner: Owner = "tokenizer"
) -> list[Source]:
    """The shard folders `paths` with their weights, without any by size; raises ConfigError where they do not fit."""
    shards = [open_shards(path, vocab, owner=owner) for path in paths]
    if weights and len(weights) != len(shards):
        what = f"{len(weights)} weights for {len(shards)} data folders"
        raise ConfigError(what, where="setting 'weights'", hint="give one weight per folder")
    shares = weights or [float(part.tokens) for part in shards]
    return [
        Source(examples=part, weight=share, name=str(path))
        for part, share, path in zip(shards, shares, paths, strict=True)
    ]
