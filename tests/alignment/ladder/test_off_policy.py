"""Importance sampling and PPO: unbiased and ever noisier, the clip's cases by hand, coefficients that adapt."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from luban.alignment.ladder.importance import (
    effective_samples,
    estimate,
    normalised_estimate,
    ratios,
    surrogate_loss,
)
from luban.alignment.ladder.ppo_clip import bound, clipped_loss, clipped_value_loss
from luban.alignment.ladder.ppo_penalty import DoublingKL, ProportionalKL, kl_of_samples, penalty_loss
from luban.alignment.ladder.reinforce import policy_gradient_loss

F = torch.tensor([1.0, 5.0, 2.0])
OLD = torch.tensor([0.5, 0.2, 0.3])
NEAR, FAR = torch.tensor([0.4, 0.3, 0.3]), torch.tensor([0.02, 0.96, 0.02])


def estimates(new: Tensor, *, samples: int, times: int = 4000) -> tuple[Tensor, Tensor]:
    """`times` estimates of E_new[F] from `samples` draws of OLD each: plain, and with normalised weights."""
    drawn = torch.multinomial(OLD, samples * times, replacement=True).view(times, samples)
    weights = ratios(new.log()[drawn], OLD.log()[drawn])
    pairs = [(estimate(F[d], w), normalised_estimate(F[d], w)) for d, w in zip(drawn, weights, strict=True)]
    plain, normalised = zip(*pairs, strict=True)
    return torch.stack(plain), torch.stack(normalised)


def test_importance_sampling_has_no_bias_and_a_variance_that_grows_with_the_distance() -> None:
    torch.manual_seed(0)
    variances = []
    for new in (OLD, NEAR, FAR):
        plain, _ = estimates(new, samples=8)
        truth = float((new * F).sum())
        assert abs(float(plain.mean()) - truth) < 4 * float(plain.std()) / math.sqrt(len(plain))
        by_hand = float((new**2 / OLD * F**2).sum()) - truth**2  # of one sample: E_q[(w f)^2] - E_p[f]^2
        assert float(plain.var()) == pytest.approx(by_hand / 8, rel=0.1)
        variances.append(float(plain.var()))
    assert variances[0] < variances[1] < variances[2] / 5


def test_normalised_weights_trade_bias_for_variance() -> None:
    torch.manual_seed(0)
    truth = float((FAR * F).sum())
    few_plain, few = estimates(FAR, samples=4)
    _, many = estimates(FAR, samples=256, times=400)
    assert float(few.var()) < 0.5 * float(few_plain.var())
    assert abs(float(few.mean()) - truth) > 0.5
    assert abs(float(many.mean()) - truth) < 0.05


def test_equal_weights_are_worth_all_samples_and_a_single_one_is_worth_one() -> None:
    assert effective_samples(torch.full((5,), 0.3)) == pytest.approx(5)
    assert effective_samples(torch.tensor([0.0, 0.0, 7.0])) == pytest.approx(1)


def test_where_both_policies_are_one_the_surrogate_s_gradient_is_reinforce_s() -> None:
    logps, advantages = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    losses = (surrogate_loss(logps, logps.detach(), advantages), policy_gradient_loss(logps, advantages))
    first, second = (torch.autograd.grad(loss.sum(), logps)[0] for loss in losses)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (1.5, 2.0, -2.4, False),  # wanted more, and is more than enough: held at 1.2 * 2
        (0.5, 2.0, -1.0, True),  # wanted more, and has become less: must come back
        (1.5, -2.0, 3.0, True),  # wanted less, and has become more: must come back
        (0.5, -2.0, 1.6, False),  # wanted less, and is less than enough: held at 0.8 * -2
        (1.1, 2.0, -2.2, True),
        (0.9, -2.0, 1.8, True),
    ],
)
def test_the_clip_holds_only_what_went_far_in_the_wanted_direction(
    ratio: float, advantage: float, loss: float, moves: bool
) -> None:
    new = torch.tensor([[math.log(ratio)]], requires_grad=True)
    old, advantages = torch.zeros(1, 1), torch.tensor([[advantage]])
    found = clipped_loss(new, old, advantages, low=0.2, high=0.2)
    found.sum().backward()
    assert found.item() == pytest.approx(loss)
    assert new.grad is not None
    assert new.grad.item() == pytest.approx(-ratio * advantage if moves else 0)
    assert bound(new, old, advantages, low=0.2, high=0.2).item() is not moves


def test_clip_higher_leaves_room_above_only() -> None:
    ratio = torch.tensor([[1.25, 0.75]]).log()
    loss = clipped_loss(ratio, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), low=0.2, high=0.28)
    torch.testing.assert_close(loss, torch.tensor([[-1.25, 0.8]]))


@pytest.mark.parametrize(
    ("value", "loss"),
    [
        (1.1, 0.5 * 0.9**2),  # near the old one: as without clip
        (2.0, 0.5 * 0.8**2),  # right at the return, but too far from the old one: the error of 1.2 counts
        (0.0, 0.5 * 2.0**2),  # the wrong way: the larger error counts
    ],
)
def test_the_value_s_clip_takes_the_larger_error(value: float, loss: float) -> None:
    one = torch.tensor([[1.0]])
    found = clipped_value_loss(torch.tensor([[value]]), one, 2 * one, clip=0.2)
    assert found.item() == pytest.approx(loss)


def test_the_kl_of_samples_has_the_kl_as_its_mean_and_is_never_negative() -> None:
    each = kl_of_samples(NEAR.log(), OLD.log())
    assert bool((each >= 0).all())
    assert float((OLD * each).sum()) == pytest.approx(float((OLD * (OLD / NEAR).log()).sum()), rel=1e-5)


def test_a_penalty_adds_its_price() -> None:
    new, old, advantages = torch.tensor([[0.3]]), torch.tensor([[0.1]]), torch.tensor([[2.0]])
    by_hand = -math.exp(0.2) * 2 + 0.5 * (math.exp(0.2) - 1 - 0.2)
    assert penalty_loss(new, old, advantages, beta=0.5).item() == pytest.approx(by_hand)


def test_the_doubling_coefficient_doubles_halves_and_stays() -> None:
    price = DoublingKL(1.0, target=0.02)
    seen = []
    for kl in (0.031, 0.029, 0.014, 0.013):
        price.see(kl)
        seen.append(price.coefficient)
    assert seen == [2, 2, 2, 1]


def test_the_proportional_coefficient_follows_the_error_within_a_fifth() -> None:
    price = ProportionalKL(0.1, target=4.0, horizon=100)
    price.see(4.4, answers=50)
    assert price.coefficient == pytest.approx(0.1 * (1 + 0.1 * 0.5))
    price.see(400.0, answers=100)
    assert price.coefficient == pytest.approx(0.1 * 1.05 * 1.2)
    fixed = ProportionalKL(0.1, target=0.0, horizon=100)
    fixed.see(400.0, answers=100)
    assert fixed.coefficient == 0.1
