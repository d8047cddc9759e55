"""Answers packed as pairs are read as if each stood alone: log-probabilities, last tokens, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from luban.alignment.pair_batch import answers_of, logps_of, target_logps
from luban.alignment.preferences import Answer, Pair, Pairs
from luban.data.batch import IGNORED, Batch
from luban.data.loader import Loader, Source
from tests import tiny


def pairs(count: int, *, seed: int = 0) -> Pairs:
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        prompt = draw.integers(5, 384, draw.integers(1, 6))
        both = []
        for _ in range(2):
            ids = np.concatenate([prompt, draw.integers(5, 384, draw.integers(1, 9))]).astype(np.int32)
            both.append(Answer(ids=ids, mask=np.arange(len(ids)) >= len(prompt)))
        made.append(Pair(where=f"f:{number}", first=both[0], second=both[1]))
    return Pairs(made)


def batches(some: Pairs, packing: Any = "pack", **settings: Any) -> list[Batch]:
    numbers = {"batch": 2, "context": 48, "epochs": 1, "split_documents": False} | settings
    return list(Loader([Source(examples=some)], packing=packing, **numbers))


def alone(model: Any, answer: Answer) -> float:
    """The plain way: one answer in a row, log-softmax of all logits."""
    ids = torch.from_numpy(answer.ids).long()
    logps = F.log_softmax(model(ids[None])[0].float(), -1)
    rows = torch.from_numpy(np.flatnonzero(answer.mask))
    return logps[rows - 1, ids[rows]].sum().item()


@pytest.mark.parametrize("packing", ["pack", "pad"])
@pytest.mark.parametrize("family", [tiny.llama, tiny.gpt2, tiny.mamba])
@torch.no_grad()
def test_packed_answers_are_as_likely_as_each_alone(family: Any, packing: str) -> None:
    torch.manual_seed(0)
    model, some = family().eval(), pairs(7)
    found = torch.zeros(7, 2)
    for batch in batches(some, packing):
        answers = answers_of(batch, some)
        found[answers.pairs] = answers.totals(target_logps(model, answers.batch))
    expected = [[alone(model, pair.first), alone(model, pair.second)] for pair in some.all]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-4)


def test_tokens_and_last_tokens_are_those_of_each_answer() -> None:
    some = pairs(7)
    for batch in batches(some):
        answers = answers_of(batch, some)
        told = [(some.all[pair].first, some.all[pair].second) for pair in answers.pairs.tolist()]
        assert answers.counts.tolist() == [[a.mask.sum(), b.mask.sum()] for a, b in told]
        last = answers.batch.tokens.flatten()[answers.lasts].view(-1, 2).tolist()
        assert last == [[a.ids[-1], b.ids[-1]] for a, b in told]


def test_a_batch_of_padding_has_no_answers() -> None:
    some = pairs(1)
    (batch,) = batches(some, batch=3)
    rest = Batch(tokens=batch.tokens[1:], targets=batch.targets[1:], positions=batch.positions[1:],
                 documents=batch.documents[1:], ids=[], packed=False)  # fmt: skip
    answers = answers_of(rest, some)
    torch.manual_seed(0)
    model = tiny.llama()
    totals = answers.totals(target_logps(model, answers.batch))
    assert totals.shape == (0, 2)
    totals.sum().backward()  # copies of a model that got such a batch still take part in the sum of gradients
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_logps_in_chunks_and_their_gradients_are_those_of_all_logits() -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(1100, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    targets = torch.randint(50, (1100,))
    targets[::3] = IGNORED
    share = torch.randn(int((targets != IGNORED).sum()))
    plain = -F.cross_entropy(states @ weight.t(), targets, reduction="none", ignore_index=IGNORED)
    expected = torch.autograd.grad((plain[targets != IGNORED] * share).sum(), (states, weight))
    found = logps_of(states, weight, targets)
    torch.testing.assert_close(found, plain[targets != IGNORED])
    gradients = torch.autograd.grad((found * share).sum(), (states, weight))
    torch.testing.assert_close(gradients, expected, rtol=1e-5, atol=1e-5)
