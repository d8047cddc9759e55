"""The losses of preferences, by hand and as TRL has them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from luban.alignment.preference_losses import LOSSES, Compared, Strength, imitation_loss, rewards


def compared(
    ratios: list[list[float]],
    *,
    tokens: list[list[float]] | None = None,
    good: list[bool] | None = None,
) -> Compared:
    """Answers whose reference is 0, so that ratios are log-probabilities."""
    values = torch.tensor(ratios)
    return Compared(
        logps=values,
        reference=torch.zeros_like(values),
        tokens=torch.ones_like(values) if tokens is None else torch.tensor(tokens),
        good=torch.tensor(good or [True] * len(ratios)),
    )


def test_sigmoid_is_the_chance_that_the_reward_model_implied_gives_to_the_wrong_order() -> None:
    # beta h = 0.5 x (2 - 0) = 1, and -log s(1) = log(1 + 1/e)
    loss = LOSSES["sigmoid"](compared([[2.0, 0.0]]), Strength(beta=0.5))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_a_policy_that_is_its_reference_loses_log_2() -> None:
    same = Compared(logps=torch.tensor([[-7.0, -2.0]]), reference=torch.tensor([[-7.0, -2.0]]),
                    tokens=torch.ones(1, 2), good=torch.tensor([True]))  # fmt: skip
    assert LOSSES["sigmoid"](same, Strength()).item() == pytest.approx(math.log(2))


def test_smoothing_weighs_both_orders() -> None:
    # 0.9 x 0.31326 + 0.1 x (0.31326 + 1), as -log s(-x) = -log s(x) + x
    loss = LOSSES["sigmoid"](compared([[2.0, 0.0]]), Strength(beta=0.5, label_smoothing=0.1))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)) + 0.1)


@pytest.mark.parametrize(("h", "loss"), [(2.0, 0.0), (1.0, 0.5), (-1.0, 1.5)])
def test_hinge_stops_where_beta_h_is_one(h: float, loss: float) -> None:
    assert LOSSES["hinge"](compared([[h, 0.0]]), Strength(beta=0.5)).item() == pytest.approx(loss)


def test_ipo_wants_a_difference_per_token_of_one_over_two_beta() -> None:
    # 2/4 - (-1/2) = 1, and 1 / (2 x 0.5) = 1; with half of it (0.5 - 1)^2
    both = compared([[2.0, -1.0], [1.0, -0.5]], tokens=[[4.0, 2.0], [4.0, 2.0]])
    assert LOSSES["ipo"](both, Strength(beta=0.5)).tolist() == pytest.approx([0.0, 0.25])


def test_simpo_compares_means_over_tokens_and_wants_gamma_between_them() -> None:
    # 2 x (-4/4 + 6/2) - 1 = 3
    loss = LOSSES["simpo"](compared([[-4.0, -6.0]], tokens=[[4.0, 2.0]]), Strength(beta=2.0, gamma=1.0))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-3)))


def test_simpo_asks_no_reference() -> None:
    one = compared([[-4.0, -6.0]])
    other = Compared(logps=one.logps, reference=torch.tensor([[3.0, -9.0]]), tokens=one.tokens, good=one.good)
    assert torch.equal(LOSSES["simpo"](one, Strength()), LOSSES["simpo"](other, Strength()))


def test_kto_judges_each_answer_against_the_mean_of_strangers() -> None:
    # z = (3 - 1) / 2 = 1. Good: 1 - s(1 - 1) = 0.5. Bad, weighed twice: 2 x (1 - s(1 + 1)).
    both = compared([[1.0, 3.0], [-1.0, -1.0]], good=[True, False])
    loss = LOSSES["kto"](both, Strength(beta=1.0, bad_weight=2.0))
    assert loss.tolist() == pytest.approx([0.5, 2 / (1 + math.exp(2))])


def test_ktos_reference_point_is_not_below_zero() -> None:
    loss = LOSSES["kto"](compared([[0.0, -5.0]]), Strength(beta=1.0))
    assert loss.item() == pytest.approx(0.5)


def test_nothing_is_learnt_from_ktos_strangers() -> None:
    values = torch.tensor([[1.0, 3.0], [0.5, -1.0]], requires_grad=True)
    both = dataclasses.replace(compared([[0.0, 0.0]] * 2, good=[True, False]), logps=values)
    LOSSES["kto"](both, Strength()).sum().backward()
    assert values.grad is not None
    assert values.grad[:, 1].tolist() == [0.0, 0.0]
    good, bad = values.grad[:, 0].tolist()
    assert good < 0 < bad  # descent makes the good one likelier, the bad one less


@pytest.mark.parametrize("name", LOSSES)
def test_a_better_order_never_costs_more(name: str) -> None:
    costs = [
        LOSSES[name](compared([[h, 0.0]], tokens=[[1.0, 1.0]]), Strength(beta=0.1)).item()
        for h in (-2.0, 0.0, 2.0)
    ]
    assert costs[0] > costs[1] > costs[2]


def test_imitation_costs_the_nats_per_token_of_good_answers_only() -> None:
    both = compared([[-4.0, -6.0], [-3.0, -1.0]], tokens=[[4.0, 2.0], [2.0, 2.0]], good=[True, False])
    assert imitation_loss(both).tolist() == [1.0, 0.0]


def test_an_empty_batch_costs_nothing() -> None:
    nothing = torch.zeros(0, 2)
    empty = Compared(logps=nothing, reference=nothing, tokens=nothing, good=torch.zeros(0, dtype=torch.bool))
    assert all(loss(empty, Strength()).sum().item() == 0 for loss in LOSSES.values())


def test_implied_rewards_are_beta_times_the_ratio() -> None:
    both = Compared(logps=torch.tensor([[-3.0, -8.0]]), reference=torch.tensor([[-5.0, -4.0]]),
                    tokens=torch.tensor([[2.0, 4.0]]), good=torch.tensor([True]))  # fmt: skip
    assert rewards(both, Strength(beta=0.5), loss="sigmoid").tolist() == [[1.0, -2.0]]
    assert rewards(both, Strength(beta=0.5), loss="simpo").tolist() == [[-0.75, -1.0]]
