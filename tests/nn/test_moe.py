"""The mixture of experts: each token through its experts alone, evenness by hand and as `transformers` has it."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from luban.nn.moe import MoE, balance_loss, router_logits


def mixture(*, experts: int = 5, chosen: int = 2, normalised: bool = True) -> MoE:
    torch.manual_seed(0)
    layer = MoE(8, 12, experts=experts, chosen=chosen, normalised=normalised)
    torch.nn.init.normal_(layer.router.weight)
    return layer


def token_by_token(layer: MoE, x: Tensor) -> Tensor:
    """The definition: sum over the best experts of probability times output."""
    rows = []
    for token in x.flatten(0, -2):
        probabilities = layer.router(token).softmax(-1)
        best = probabilities.argsort(descending=True)[: layer.chosen]
        total = probabilities[best].sum() if layer.normalised else 1.0
        rows.append(sum(probabilities[i] / total * layer.experts[i](token[None])[0] for i in best.tolist()))
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("chosen", [1, 2, 5])
def test_a_batch_is_as_each_token_alone(chosen: int, normalised: bool) -> None:
    layer, x = mixture(chosen=chosen, normalised=normalised), torch.randn(3, 7, 8)
    torch.testing.assert_close(layer(x), token_by_token(layer, x))


def test_one_expert_is_a_plain_mlp() -> None:
    layer, x = mixture(experts=1, chosen=1), torch.randn(2, 3, 8)
    torch.testing.assert_close(layer(x), layer.experts[0](x))


def test_gradients_are_those_of_each_token_alone() -> None:
    layer, x = mixture(), torch.randn(1, 6, 8)
    layer(x).square().sum().backward()
    ours = {name: value.grad for name, value in layer.named_parameters()}
    layer.zero_grad()
    token_by_token(layer, x).square().sum().backward()
    for name, value in layer.named_parameters():
        expected, grad = value.grad, ours[name]
        if expected is None:
            assert grad is None, name
        else:
            torch.testing.assert_close(grad, expected, atol=1e-5, rtol=1e-4)


def test_experts_that_get_no_token_are_not_run() -> None:
    layer, run = mixture(), []
    for number, expert in enumerate(layer.experts):
        expert.register_forward_hook(lambda *_, number=number: run.append(number))
    token = torch.randn(1, 1, 8)
    layer(token)
    assert sorted(run) == sorted(layer.router(token).topk(2).indices.flatten().tolist())


def test_even_use_costs_the_number_of_chosen_experts_and_one_favourite_the_number_of_experts() -> None:
    even = torch.eye(4) * 50  # each of four tokens is sure of another expert
    assert balance_loss([even], chosen=1).item() == pytest.approx(1.0)
    favourite = torch.zeros(4, 4)
    favourite[:, 2] = 50
    assert balance_loss([favourite], chosen=1).item() == pytest.approx(4.0)


def test_balance_loss_equals_transformers() -> None:
    layers = [torch.randn(11, 6) for _ in range(3)]
    theirs = load_balancing_loss_func(cast(Any, tuple(layers)), 6, 2)
    torch.testing.assert_close(balance_loss(layers, chosen=2), theirs)


def test_router_logits_are_observed_inside_the_block_only() -> None:
    layers, x = [mixture(), mixture()], torch.randn(2, 3, 8)
    model = torch.nn.Sequential(*layers)
    with router_logits(model) as seen:
        model(x)
    model(x)
    assert [tuple(logits.shape) for logits in seen] == [(6, 5), (6, 5)]
    assert not any(layer.router._forward_hooks for layer in layers)
