"""Experts are used evenly where the balance loss asks for it, and the loss that is told is the text's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from luban.data.batch import Batch
from luban.nn.moe import balance_loss, router_logits
from luban.training.experts import evenly_used
from luban.training.step import Step, next_token
from tests import tiny


def mixture(balance: float) -> Any:
    torch.manual_seed(0)
    return tiny.llama(model_type="mixtral", experts=4, experts_per_token=1, balance=balance, vocab=64)


def batch() -> Batch:
    tokens = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(1))
    return Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:].contiguous(),
        positions=torch.arange(16).expand(4, -1),
        documents=torch.zeros(4, 16, dtype=torch.long),
        ids=[],
        packed=False,
    )


def test_a_model_without_experts_keeps_its_objective() -> None:
    objective = next_token()
    assert evenly_used(objective, tiny.llama()) is objective


def test_the_loss_is_the_texts_and_the_gradient_has_the_balance_too() -> None:
    model = mixture(balance=0.5)
    plain, balanced = next_token()(model, batch()), evenly_used(next_token(), model)(model, batch())
    assert balanced.loss.item() == pytest.approx(plain.loss.item())
    assert balanced.targets == plain.targets

    def router_gradient(step: Step) -> torch.Tensor:
        model.zero_grad()
        step.loss.backward()
        return model.blocks[0].mlp.router.weight.grad.clone()

    added = router_gradient(balanced) - router_gradient(plain)
    model.zero_grad()
    with router_logits(model) as logits:
        model.hidden(batch().tokens)
    (balance_loss(logits, chosen=1) * 0.5 * plain.targets).backward()
    torch.testing.assert_close(added, model.blocks[0].mlp.router.weight.grad, atol=1e-5, rtol=1e-4)


def unevenness(balance: float) -> float:
    """The balance loss after learning a batch by heart from a router that favours one expert."""
    model = mixture(balance)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.router.weight[2] += 0.3
    objective, optimizer = evenly_used(next_token(), model), torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        step = objective(model, batch())
        (step.loss / step.targets).backward()
        optimizer.step()
    with torch.no_grad(), router_logits(model) as logits:
        model.hidden(batch().tokens)
    return balance_loss(logits, chosen=1).item()


def test_balance_spreads_tokens_over_experts() -> None:
    alone, balanced = unevenness(0.0), unevenness(0.05)
    assert balanced < 1.05 < 1.2 < alone  # 1 is even, 4 is one expert for all
