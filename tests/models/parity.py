"""How far our logits lie from the reference's, per family and way of calling: what docs/families.md states."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luban.models import FAMILIES, hf
from luban.nn.cache import Cache
from tests.models import encoders, references, seq2seq_references

PLAIN, CACHED, PADDED, SAVED = WAYS = ("plain", "cached", "padded", "saved")
"""Whole rows; one token after another; rows of several lengths; what we wrote, read by the reference."""
BATCH, SEQ = 2, 16
Errors = dict[str, float]


@dataclass(frozen=True)
class Calls:
    """One reference and our model of the same weights, called alike."""

    ours: Any
    theirs: Any


def families() -> list[str]:
    """Every family that transformers has too."""
    return [name for name in FAMILIES if _references(name)]


@torch.no_grad()
def measure(family: str) -> Errors:
    """The largest absolute difference of logits in each way that the family can be called, over its references."""
    worst: Errors = {}
    kind = FAMILIES[family].kind
    for name in _references(family):
        theirs, folder = BUILT[kind](name)
        for way, error in MEASURES[kind](Calls(hf.load(folder), theirs)):
            worst[way] = max(worst.get(way, 0.0), error)
    return worst


def _references(family: str) -> list[str]:
    """Names of the family's tiny references: its own name, or one that begins with it."""
    if family in ENCODERS:
        return [ENCODERS[family]]
    # transformers does not say in config.json that a T5's head is its own: that one is tested where it is told.
    names = [*references.CONFIGS, *(name for name in seq2seq_references.CONFIGS if name != "t5 own head")]
    return [name for name in names if name.split()[0] == family]


def _causal(case: Calls) -> Iterator[tuple[str, float]]:
    ours, theirs = case.ours, case.theirs
    tokens = _tokens(references.VOCAB)
    expected = references.logits_of(theirs, tokens)
    yield PLAIN, _apart(ours(tokens), expected)
    cache = ours.make_cache(batch=BATCH, capacity=SEQ)
    steps = [ours(tokens[:, i : i + 1], torch.tensor([[i]]), _grown(cache, i)) for i in range(SEQ)]
    yield CACHED, _apart(torch.cat(steps, 1), expected)
    padding = torch.tensor([[0], [5]])
    valid, positions = torch.arange(SEQ) >= padding, (torch.arange(SEQ) - padding).clamp(min=0)
    masked = ours(tokens, positions, ours.make_cache(batch=BATCH, capacity=SEQ, valid=valid))
    expected = references.logits_of(theirs, tokens, attention_mask=valid.long(), position_ids=positions)
    yield PADDED, _apart(masked[valid], expected[valid])
    yield SAVED, _apart(ours(tokens), references.logits_of(_saved(case), tokens))


def _seq2seq(case: Calls) -> Iterator[tuple[str, float]]:
    ours, logits_of = case.ours, seq2seq_references.logits_of
    source, tokens = seq2seq_references.tokens_of(BATCH, SEQ), seq2seq_references.tokens_of(BATCH, 9, seed=2)
    expected = logits_of(case.theirs, source, tokens)
    yield PLAIN, _apart(ours(source, tokens), expected)
    decoder = ours.given(ours.encode(source))
    cache = decoder.make_cache(batch=BATCH, capacity=9)
    steps = [decoder.hidden(tokens[:, i : i + 1], torch.tensor([[i]]), _grown(cache, i)) for i in range(9)]
    yield CACHED, _apart(decoder.head(torch.cat(steps, 1)), expected)
    valid = torch.arange(SEQ) < torch.tensor([[SEQ], [7]])
    expected = logits_of(case.theirs, source, tokens, attention_mask=valid.long())
    yield PADDED, _apart(ours(source, tokens, valid), expected)
    yield SAVED, _apart(ours(source, tokens), logits_of(_saved(case), source, tokens))


def _masked(case: Calls) -> Iterator[tuple[str, float]]:
    tokens = _tokens(encoders.VOCAB)
    yield PLAIN, _apart(case.ours(tokens), case.theirs(tokens).logits)
    valid = torch.arange(SEQ) < torch.tensor([[SEQ], [7]])
    expected = case.theirs(tokens, attention_mask=valid.long()).logits
    yield PADDED, _apart(case.ours(tokens, valid=valid)[valid], expected[valid])
    yield SAVED, _apart(case.ours(tokens), _saved(case)(tokens).logits)


def _vision(case: Calls) -> Iterator[tuple[str, float]]:
    images = torch.randn(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    yield PLAIN, _apart(case.ours(images), case.theirs(images).logits)
    yield SAVED, _apart(case.ours(images), _saved(case)(images).logits)


ENCODERS = {"bert": "BertForMaskedLM", "roberta": "RobertaForMaskedLM", "vit": "ViTForImageClassification"}
BUILT: dict[str, Callable[[str], tuple[Any, Path]]] = {
    "causal": references.reference,
    "seq2seq": seq2seq_references.reference,
    "masked": encoders.encoder,
    "vision": encoders.encoder,
}
MEASURES: dict[str, Callable[[Calls], Iterator[tuple[str, float]]]] = {
    "causal": _causal,
    "seq2seq": _seq2seq,
    "masked": _masked,
    "vision": _vision,
}
"""By the family's `kind`."""


def _saved(case: Calls) -> Any:
    """What the reference's class makes of the folder that we write."""
    with tempfile.TemporaryDirectory() as folder:
        hf.save(case.ours, Path(folder))
        return type(case.theirs).from_pretrained(folder).eval()


def _grown(cache: Cache, length: int) -> Cache:
    """The cache, told of the token it was last used for."""
    for slot in cache if length else ():
        slot.advance(1)
    return cache


def _tokens(vocab: int) -> Tensor:
    return torch.randint(1, vocab, (BATCH, SEQ), generator=torch.Generator().manual_seed(1))


def _apart(ours: Tensor, theirs: Tensor) -> float:
    return (ours - theirs).abs().max().item()
