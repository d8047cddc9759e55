"""Perplexity: documents that a language model of good text finds unlikely go, or are put into buckets.

Models are folders of `luban data ngram`, one per language, opened once per process. Each line of a document is a
sentence; its perplexity is 10^(-log10 p / (words + sentence ends)).

Source: Wenzek et al. 2020 (CCNet, arXiv:1911.00359), section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from luban.data.quantiles import quantile
from luban.data.step import Batch, Drop, Edit, Outcome
from luban.errors import ConfigError
from luban.ngram.model import open_model

OTHERS = "*"
BUCKETS = ("head", "middle", "tail")
NO_MODEL = -1
DECISION = np.dtype([("bucket", "i1"), ("perplexity", "<f4")])
Bucket = Literal["head", "middle", "tail"]


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Drop what is above or below a perplexity; all that stay have theirs in their record."""

    models: dict[str, Path]
    """Model folders by language (the record's `language`); `*` is for all others."""
    max_perplexity: Annotated[float, Gt(0)] | None = None
    """Above it a document is no good language."""
    min_perplexity: Annotated[float, Gt(0)] | None = None
    """Below it a document repeats itself or boilerplate."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("setting 'models' is empty", hint="models: {en: FOLDER}, or {'*': FOLDER}")

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        """Reasons `perplexity_high`, `perplexity_low`, `no_words`; change `no_perplexity_model`."""
        values, which = perplexities(self.models, batch)
        return [self._judge(float(value), int(model)) for value, model in zip(values, which, strict=True)]

    def _judge(self, value: float, model: int) -> Outcome:
        if model == NO_MODEL:
            return Edit(changes={"no_perplexity_model": 1})
        if np.isnan(value):
            return Drop("no_words")
        if self.max_perplexity is not None and value > self.max_perplexity:
            return Drop("perplexity_high", value)
        if self.min_perplexity is not None and value < self.min_perplexity:
            return Drop("perplexity_low", value)
        return Edit(meta={"perplexity": round(value, 2)})


@dataclass(frozen=True, kw_only=True)
class PerplexityBuckets:
    """Head, middle and tail of each language by the whole corpus's percentiles; keep some of them."""

    models: dict[str, Path]
    """Model folders by language (the record's `language`); `*` is for all others."""
    head: Annotated[float, Ge(0), Le(1)] = 0.3
    """The share of a language's documents, best first, that is `head`."""
    middle: Annotated[float, Ge(0), Le(1)] = 0.6
    """Up to this share it is `middle`; the rest is `tail`."""
    keep: tuple[Bucket, ...] = BUCKETS
    """The buckets that stay."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("setting 'models' is empty", hint="models: {en: FOLDER}, or {'*': FOLDER}")
        if self.middle < self.head:
            raise ConfigError(f"'middle' is {self.middle}, below 'head', {self.head}")

    def collect(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """Each document's perplexity (NaN without words) and which model gave it."""
        values, which = perplexities(self.models, batch)
        return {"perplexity": values.astype(np.float32), "model": which}

    def resolve(self, parts: Sequence[Mapping[str, Path]], decisions: Sequence[Path], *, memory: int) -> None:  # noqa: ARG002 - takes a few megabytes whatever the corpus
        """Cut each model's documents at its two percentiles."""
        loaded = [{name: np.load(path, mmap_mode="r") for name, path in part.items()} for part in parts]
        cuts = {}
        for model in range(len(self.models)):

            def values(model: int = model) -> list[np.ndarray]:
                return [part["perplexity"][part["model"] == model] for part in loaded]

            cuts[model] = [quantile(values, share) if share else -1.0 for share in (self.head, self.middle)]
        for part, path in zip(loaded, decisions, strict=True):
            decided = np.empty(len(part["model"]), DECISION)
            decided["perplexity"], decided["bucket"] = part["perplexity"], NO_MODEL
            for model, limits in cuts.items():
                own = part["model"] == model
                decided["bucket"][own] = np.searchsorted(limits, part["perplexity"][own])
            np.save(path, decided)

    def apply(self, batch: Batch, decisions: np.ndarray) -> Sequence[Outcome]:
        """Reasons `perplexity_head`, `..._middle`, `..._tail`, `no_words`; change `no_perplexity_model`."""
        mine = decisions[batch.first : batch.first + len(batch.documents)]
        return [self._judge(int(row["bucket"]), float(row["perplexity"])) for row in mine]

    def _judge(self, bucket: int, value: float) -> Outcome:
        if bucket == NO_MODEL:
            return Edit(changes={"no_perplexity_model": 1})
        if np.isnan(value):
            return Drop("no_words")
        name = BUCKETS[bucket]
        if name not in self.keep:
            return Drop(f"perplexity_{name}", value)
        return Edit(meta={"perplexity": round(value, 2), "perplexity_bucket": name})


def perplexities(models: Mapping[str, Path], batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Each document's perplexity (float64; NaN without words) and the number of its language's model (int32)."""
    names = {name: number for number, name in enumerate(models)}
    others = names.get(OTHERS, NO_MODEL)
    languages = (document.meta.get("language") for document in batch.documents)
    which = np.array([names.get(str(language), others) for language in languages], np.int32)
    values = np.full(len(which), np.nan)
    for number, folder in enumerate(models.values()):
        own = np.flatnonzero(which == number)
        if len(own):
            values[own] = open_model(Path(folder)).score(batch.packed.take(own)).perplexity
    return values, which
