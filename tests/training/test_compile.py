"""`torch.compile` of the training step, for each kind of block: the same loss and gradients as without."""

from __future__ import annotations

import pytest
import torch

from luban.data.batch import Batch, Origin
from luban.models import FAMILIES, hf
from luban.models.base import Shape
from luban.tokenizers.train import train
from luban.training.objectives import OBJECTIVES, objective_for
from tests import tiny

COMPILED = [
    "feedforward",
    "gpt2",
    "llama",
    "mistral",
    "bloom",
    "bert",
    "roberta",
]
"""One of each wiring; Qwen's flags are LLaMA's."""


def batch() -> Batch:
    tokens = torch.randint(8, 150, (2, 17), generator=torch.Generator().manual_seed(0))
    documents = (torch.arange(16) // 6).expand(2, -1).contiguous()
    return Batch(
        tokens=tokens[:, :-1].contiguous(),
        targets=tokens[:, 1:].contiguous(),
        positions=(torch.arange(16) % 6).expand(2, -1).contiguous(),
        documents=documents,
        ids=[Origin("test", 0)],
        packed=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_step_is_the_eager_one(name: str) -> None:
    torch.compiler.reset()
    shape = Shape(
        model_type=name, vocab=384, context=32, dim=16, layers=1, heads=0 if name == "feedforward" else 2
    )
    model = hf.build(FAMILIES[name].config.sized(shape))
    tokenizer = (
        train(tiny.TEXTS, kind="wordpiece", vocab=200)
        if FAMILIES[name].kind == "masked"
        else tiny.tokenizer()
    )
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model.zero_grad()
        step = objective_for(model, tokenizer, compiled=compiled)(model, batch())
        step.loss.backward()
        found.append((step.loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (eager, its), (loss, ours) = found
    torch.testing.assert_close(loss, eager, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(ours, its, atol=1e-4, rtol=1e-4)


def test_every_family_that_is_trained_compiles_or_says_not() -> None:
    trained = {name for name, family in FAMILIES.items() if family.kind in OBJECTIVES}
    kinds = {name: FAMILIES[name].config for name in COMPILED}
    for name in trained:
        family = FAMILIES[name]
        alike = family.config in kinds.values()
        assert alike or not family.compiles or family.kind == "seq2seq", name
