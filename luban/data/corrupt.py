"""Damage to a text's ids that a model learns to undo: BART's five noises and their mixtures, T5's missing spans.

Plain numpy and a generator passed in: the same ids and seed give the same damage. `training/denoising.py` makes
sources and targets of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from luban.errors import DataError

Ids = np.ndarray
"""Token ids [length], of any integer type."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """A mixture of BART's noises, by the share of texts or tokens that each one meets; 0 leaves one out.

    They come in the order of the fields: what moves text first, what removes it last.
    """

    permutation: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of texts whose sentences are shuffled."""
    rotation: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of texts that are turned to begin at any token."""
    infilling: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of tokens in spans that one mask replaces."""
    masking: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of tokens replaced by a mask each."""
    deletion: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of tokens taken away without a trace."""
    mean_span: Annotated[float, Gt(0)] = 3.0
    """Mean tokens in a span of `infilling`."""


BART_NOISE = Noise(permutation=1.0, infilling=0.3)
"""What BART was trained on. Source: Lewis et al. 2020, section 5 (arXiv:1910.13461)."""


def corrupt(
    ids: Ids, noise: Noise, rng: np.random.Generator, *, mask: int, sentence_ends: Ids | None = None
) -> Ids:
    """`ids` after the noises of a mixture, in their order; `sentence_ends` are the ids that end a sentence."""
    if rng.random() < noise.permutation:
        ids = permute_sentences(ids, rng, ends=np.empty(0) if sentence_ends is None else sentence_ends)
    if rng.random() < noise.rotation:
        ids = rotate(ids, rng)
    if noise.infilling:
        ids = infill(ids, rng, rate=noise.infilling, mask=mask, mean_span=noise.mean_span)
    if noise.masking:
        ids = mask_tokens(ids, rng, rate=noise.masking, mask=mask)
    return delete_tokens(ids, rng, rate=noise.deletion) if noise.deletion else ids


def mask_tokens(ids: Ids, rng: np.random.Generator, *, rate: float, mask: int) -> Ids:
    """`ids` with each one replaced by `mask` at the chance `rate`: which word stood here?"""
    return np.where(rng.random(len(ids)) < rate, mask, ids)


def delete_tokens(ids: Ids, rng: np.random.Generator, *, rate: float) -> Ids:
    """`ids` without each one at the chance `rate`: which words are missing, and where?"""
    return ids[rng.random(len(ids)) >= rate]


def infill(ids: Ids, rng: np.random.Generator, *, rate: float, mask: int, mean_span: float = 3.0) -> Ids:
    """`ids` with spans each replaced by one `mask`: how much is missing here, and what?

    Span lengths are Poisson of mean `mean_span`; one of 0 inserts a mask that stands for nothing. Spans hold the
    share `rate` of all tokens, rounded up or down by chance; the last one is cut to fit.

    Source: Lewis et al. 2020, section 2.2 (arXiv:1910.13461); lengths after SpanBERT.
    """
    lengths = _poisson_spans(int(rate * len(ids) + rng.random()), mean_span, rng)
    kept = len(ids) - int(lengths.sum())
    # Spans and kept tokens in any order: every place is as likely, and two spans may touch.
    gaps = np.sort(rng.permutation(kept + len(lengths))[: len(lengths)]) - np.arange(len(lengths))
    return np.insert(ids[~_inside(gaps, lengths, len(ids))], gaps, mask)


def permute_sentences(ids: Ids, rng: np.random.Generator, *, ends: Ids) -> Ids:
    """`ids` with their sentences, each up to one of the ids `ends`, in any order: what follows from what?"""
    sentences = np.split(ids, np.flatnonzero(np.isin(ids[:-1], ends)) + 1)
    return np.concatenate([sentences[place] for place in rng.permutation(len(sentences))])


def rotate(ids: Ids, rng: np.random.Generator) -> Ids:
    """`ids` turned so that any token comes first: where does the text begin?"""
    return np.roll(ids, -rng.integers(len(ids))) if len(ids) else ids


def drop_spans(
    ids: Ids,
    rng: np.random.Generator,
    *,
    sentinels: Sequence[int],
    rate: float = 0.15,
    mean_span: float = 3.0,
) -> tuple[Ids, Ids]:
    """A source whose missing spans are marked by sentinels, and a target that tells what is missing at each.

    With X, Y, Z for sentinels, `a b c d e f` may become `a X d Y f` and `X b c Y e Z`. The share `rate` of the
    tokens is missing, at least one and never all, in spans of `mean_span` on average that do not touch. Raises
    DataError if there are too few sentinels, or if one stands in the text.

    Source: Raffel et al. 2020, section 3.1.4 and figure 2 (arXiv:1910.10683).
    """
    if len(ids) < 2:
        raise DataError(f"{len(ids)} tokens are too few to drop some and keep some")
    missing, spans = _share_out(len(ids), rate, mean_span)
    _check_sentinels(ids, sentinels, needed=spans + 1)
    lengths = np.diff(np.sort(rng.permutation(missing - 1)[: spans - 1]) + 1, prepend=0, append=missing)
    gaps = np.sort(rng.permutation(len(ids) - missing + 1)[:spans])
    inside = _inside(gaps, lengths, len(ids))
    marks = np.asarray(sentinels[:spans], ids.dtype)
    told = np.insert(ids[inside], np.cumsum(lengths) - lengths, marks)
    return np.insert(ids[~inside], gaps, marks), np.append(told, np.asarray(sentinels[spans], ids.dtype))


def restore_spans(source: Ids, target: Ids, *, sentinels: Sequence[int]) -> Ids:
    """The text that `drop_spans` took apart. Raises DataError where the sentinels of both do not match."""
    in_source, in_target = (np.flatnonzero(np.isin(ids, sentinels)) for ids in (source, target))
    marks, told = source[in_source].tolist(), target[in_target].tolist()
    if not told or told[:-1] != marks or (in_target[0], in_target[-1]) != (0, len(target) - 1):
        raise DataError(
            f"the source has sentinels {marks}, the target {told}: it begins and ends with one more"
        )
    first, *pieces = np.split(source, in_source)
    spans = np.split(target, in_target)[1:-1]
    return np.concatenate([first, *(part[1:] for pair in zip(spans, pieces, strict=True) for part in pair)])


def sentinels_needed(length: int, *, rate: float = 0.15, mean_span: float = 3.0) -> int:
    """How many sentinels `drop_spans` takes for `length` ids."""
    return _share_out(length, rate, mean_span)[1] + 1


def _share_out(length: int, rate: float, mean_span: float) -> tuple[int, int]:
    """How many of `length` ids are missing, and in how many spans."""
    missing = int(np.clip(round(length * rate), 1, length - 1))
    return missing, int(np.clip(round(missing / mean_span), 1, min(missing, length - missing + 1)))


def _poisson_spans(total: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """Lengths drawn until they make `total`, the last one cut to fit."""
    lengths = np.empty(0, np.int64)
    while lengths.sum() < total:
        lengths = np.append(lengths, rng.poisson(mean, 1 + int(total / mean)))
    ends = np.cumsum(lengths)
    lengths = lengths[: int(np.searchsorted(ends, total)) + 1]
    lengths[-1:] -= lengths.sum() - total
    return lengths


def _inside(gaps: np.ndarray, lengths: np.ndarray, size: int) -> np.ndarray:
    """Which of `size` tokens lie in spans of `lengths`, each with so many tokens outside of spans before it."""
    inside = np.zeros(size, bool)
    inside[np.repeat(gaps, lengths) + np.arange(int(lengths.sum()))] = True
    return inside


def _check_sentinels(ids: Ids, sentinels: Sequence[int], *, needed: int) -> None:
    if len(sentinels) < needed:
        raise DataError(
            f"{len(ids)} tokens need {needed} sentinels and there are {len(sentinels)}",
            hint="shorter rows, or more sentinels: luban tokenizer train --sentinels 100",
        )
    if found := set(ids.tolist()) & set(sentinels):
        raise DataError(f"the text holds the sentinel {min(found)}, so that no span could be told from it")
