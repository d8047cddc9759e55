"""The objective of translation: rows taken apart as they were made, and the loss of the plain forward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from luban.data.batch import IGNORED, Batch
from luban.data.loader import Source
from luban.data.pairs import PairLoader
from luban.models.transformer import Transformer, TransformerConfig
from luban.training.answers import answers, compiled_halves, take_apart

Ids = list[list[int]]
SIDES = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def batch_of(pairs: list[tuple[list[int], list[int]]], rows: int) -> Batch:
    """The pairs as the loader hands them out; rows beyond them are padding."""
    examples = [
        (np.array([*source, *target], np.int32), np.repeat([False, True], [len(source), len(target)]))
        for source, target in pairs
    ]
    loader = PairLoader([Source(examples=examples)], batch=rows, context=12, packing="pad", epochs=1)
    return next(loader)


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=4))
def test_a_batch_is_taken_apart_into_the_pairs_it_was_made_of(
    pairs: list[tuple[list[int], list[int]]],
) -> None:
    sides = take_apart(batch_of(pairs, rows=4))
    found = [
        (source[valid].tolist(), target[target != IGNORED].tolist())
        for source, valid, target in zip(*sides, strict=True)
    ]
    assert sorted(found[: len(pairs)]) == sorted(pairs)
    assert [target for _, target in found[len(pairs) :]] == [[]] * (4 - len(pairs))
    assert sides.source.shape[1] == max(len(source) for source, _ in pairs)


def test_a_batch_is_no_wider_than_its_longest_pair_without_the_last_token() -> None:
    batch = batch_of([([5, 6, 7], [8, 9]), ([10], [11])], rows=3)
    assert batch.tokens.shape == batch.targets.shape == batch.positions.shape == batch.documents.shape
    assert batch.tokens.tolist()[:2] in ([[5, 6, 7, 8], [10, 11, 0, 0]], [[10, 11, 0, 0], [5, 6, 7, 8]])


def tiny_model() -> Any:
    torch.manual_seed(0)
    numbers: dict[str, Any] = {"vocab": 41, "dim": 16, "layers": 1, "heads": 2, "context": 12}
    return Transformer(TransformerConfig(**numbers, decoder_start_id=0))


PAIRS = [([5, 6, 7], [8, 9]), ([10], [11, 12, 13, 14])]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_each_pair_alone(smoothing: float) -> None:
    model = tiny_model()
    step = answers(smoothing=smoothing)(model, batch_of(PAIRS, rows=3))
    expected = torch.zeros(())
    for source, target in PAIRS:
        logits = model(torch.tensor([source]), torch.tensor([[0, *target[:-1]]]))[0]
        expected += F.cross_entropy(logits, torch.tensor(target), reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(step.loss, expected)
    assert step.targets == 6


@pytest.mark.slow
def test_compiled_halves_give_the_same_loss_and_gradients() -> None:
    model, batch = tiny_model(), batch_of(PAIRS, rows=3)
    gradients = []
    for halves in (None, compiled_halves(model)):
        step = answers(halves=halves)(model, batch)
        gradients.append([step.loss, *torch.autograd.grad(step.loss, list(model.parameters()))])
    for plain, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-4)
