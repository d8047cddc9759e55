"""Every rung finds the way through a small grid; those above learn more from the same walks."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from luban.alignment.ladder.actor_critic import k_step_returns, td_returns
from luban.alignment.ladder.baseline import leave_one_out
from luban.alignment.ladder.gae import gae
from luban.alignment.ladder.importance import surrogate_loss
from luban.alignment.ladder.ppo_clip import clipped_loss
from luban.alignment.ladder.ppo_penalty import penalty_loss
from luban.alignment.ladder.reinforce import policy_gradient_loss, total_returns
from luban.alignment.ladder.rewards_to_go import rewards_to_go
from tests.alignment.ladder.environments import BEST, PolicyLoss, learn_to_walk


def reinforce(new: Tensor, _old: Tensor, rewards: Tensor, _values: Tensor, _there: Tensor) -> Tensor:
    return policy_gradient_loss(new, total_returns(rewards))


def with_baseline(new: Tensor, _old: Tensor, rewards: Tensor, _values: Tensor, _there: Tensor) -> Tensor:
    returns = total_returns(rewards)
    return policy_gradient_loss(new, returns - leave_one_out(returns.T).T)


def to_go(new: Tensor, _old: Tensor, rewards: Tensor, _values: Tensor, _there: Tensor) -> Tensor:
    returns = rewards_to_go(rewards, gamma=0.95)
    return policy_gradient_loss(new, returns - leave_one_out(returns.T).T)


def one_step(new: Tensor, _old: Tensor, rewards: Tensor, values: Tensor, _there: Tensor) -> Tensor:
    return policy_gradient_loss(new, td_returns(rewards, values) - values)


def three_steps(new: Tensor, _old: Tensor, rewards: Tensor, values: Tensor, _there: Tensor) -> Tensor:
    return policy_gradient_loss(new, k_step_returns(rewards, values, k=3) - values)


def advantage(new: Tensor, _old: Tensor, rewards: Tensor, values: Tensor, _there: Tensor) -> Tensor:
    return policy_gradient_loss(new, gae(rewards, values, gamma=0.99, lam=0.9))


def surrogate(new: Tensor, old: Tensor, rewards: Tensor, values: Tensor, _there: Tensor) -> Tensor:
    return surrogate_loss(new, old, gae(rewards, values, gamma=0.99, lam=0.9))


def penalised(new: Tensor, old: Tensor, rewards: Tensor, values: Tensor, _there: Tensor) -> Tensor:
    return penalty_loss(new, old, gae(rewards, values, gamma=0.99, lam=0.9), beta=0.5)


def clipped(new: Tensor, old: Tensor, rewards: Tensor, values: Tensor, _there: Tensor) -> Tensor:
    return clipped_loss(new, old, gae(rewards, values, gamma=0.99, lam=0.9), low=0.2, high=0.2)


ON_POLICY: tuple[PolicyLoss, ...] = (reinforce, with_baseline, to_go, one_step, three_steps, advantage)
OFF_POLICY: tuple[PolicyLoss, ...] = (surrogate, penalised, clipped)


def test_an_untrained_walk_seldom_arrives() -> None:
    assert learn_to_walk(clipped, rounds=0, epochs=1, seed=0) < -0.8


@pytest.mark.parametrize("loss", ON_POLICY, ids=lambda loss: loss.__name__)
def test_a_rung_finds_the_way(loss: PolicyLoss) -> None:
    assert learn_to_walk(loss, rounds=150, epochs=1, seed=0) > BEST - 0.3


@pytest.mark.parametrize("loss", OFF_POLICY, ids=lambda loss: loss.__name__)
def test_a_rung_that_uses_walks_again_needs_fewer(loss: PolicyLoss) -> None:
    assert learn_to_walk(loss, rounds=60, epochs=4, seed=0, lr=0.05) > BEST - 0.3


def test_ppo_learns_more_from_as_many_walks_than_reinforce() -> None:
    learn = functools.partial(learn_to_walk, rounds=40, lr=0.05)
    seeds = range(3)
    plain = torch.tensor([learn(reinforce, epochs=1, seed=seed) for seed in seeds]).mean()
    ppo = torch.tensor([learn(clipped, epochs=4, seed=seed) for seed in seeds]).mean()
    assert ppo > plain + 0.3
