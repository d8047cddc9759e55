"""The learning-rate schedules by hand, and AdamW against its equation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from luban.training.config import OptimizerConfig
from luban.training.optim import adamw, learning_rate_at


def rates(kind: str, steps: int, **changes: float) -> list[float]:
    config = OptimizerConfig(learning_rate=1.0, lr_scheduler_type=kind, **changes)  # pyright: ignore[reportArgumentType] - parametrised by name
    return [learning_rate_at(step, steps, config) for step in range(steps)]


def test_warm_up_rises_linearly_and_ends_at_the_peak() -> None:
    assert rates("constant", 6, warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_is_halfway_down_in_the_middle() -> None:
    middle = rates("cosine", 100, warmup_steps=0, min_lr_ratio=0.1)[50]
    assert middle == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))


def test_linear_falls_by_equal_amounts_to_the_floor() -> None:
    assert rates("linear", 4, warmup_steps=0, min_lr_ratio=0.0) == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_wsd_stays_at_the_peak_and_falls_over_the_last_share() -> None:
    falling = rates("wsd", 10, warmup_steps=0, min_lr_ratio=0.0, decay_ratio=0.2)
    assert falling == pytest.approx([1.0] * 9 + [0.5])


def test_inverse_sqrt_has_the_rates_of_the_transformer_paper() -> None:
    dim, warmup = 512, 4
    made = [dim**-0.5 * min(step**-0.5, step * warmup**-1.5) for step in range(1, 21)]
    peak = dim**-0.5 * warmup**-0.5
    assert rates("inverse_sqrt", 20, warmup_steps=warmup) == pytest.approx([rate / peak for rate in made])


def test_matrices_are_decayed_and_vectors_are_not() -> None:
    model = nn.Linear(3, 3)
    groups = adamw(model, OptimizerConfig(weight_decay=0.3)).param_groups
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [
        (0.3, [2]),
        (0.0, [1]),
    ]


def test_the_first_step_moves_each_weight_by_the_learning_rate() -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    optimizer = adamw(model, OptimizerConfig(learning_rate=0.01, weight_decay=0.0))
    model.weight.grad = torch.tensor([[3.0, -0.5]])
    optimizer.step()
    # After bias correction the first step is lr * g / (|g| + eps): the sign of the gradient times lr.
    torch.testing.assert_close(model.weight, before - 0.01 * torch.tensor([[1.0, -1.0]]))


def test_moments_that_are_there_before_the_first_step_change_no_bit() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 4), nn.Linear(5, 4)
    theirs.load_state_dict(ours.state_dict())
    config = OptimizerConfig(learning_rate=0.01, weight_decay=0.0)
    prepared = adamw(ours, config)
    assert all(
        prepared.state[parameter]["exp_avg"].shape == parameter.shape for parameter in ours.parameters()
    )
    betas = (config.adam_beta1, config.adam_beta2)
    bare = torch.optim.AdamW(
        theirs.parameters(), lr=0.01, betas=betas, eps=config.adam_epsilon, weight_decay=0.0, fused=True
    )
    for _ in range(3):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape)
            other.grad = mine.grad.clone()
        prepared.step()
        bare.step()
    assert all(torch.equal(one, two) for one, two in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_parameter_without_gradient_stays_where_it_is() -> None:
    used, unused = nn.Linear(2, 2), nn.Linear(2, 2)
    before = unused.weight.detach().clone()
    optimizer = adamw(nn.Sequential(used, unused), OptimizerConfig(weight_decay=0.5))
    used(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert torch.equal(unused.weight, before)
