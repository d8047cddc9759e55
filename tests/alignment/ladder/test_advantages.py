"""Actor-critic returns and GAE: by hand, at both limits, and as the sums that they are."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from luban.alignment.ladder.actor_critic import critic_loss, k_step_returns, td_returns
from luban.alignment.ladder.gae import gae, whitened
from luban.alignment.ladder.rewards_to_go import rewards_to_go

REWARDS = torch.tensor([[1.0, 0.0, 2.0]])
VALUES = torch.tensor([[0.5, 1.0, 3.0]])


def test_td_takes_one_reward_and_the_critic_s_word_for_the_rest() -> None:
    assert td_returns(REWARDS, VALUES, gamma=0.5).tolist() == [[1 + 0.5, 0 + 1.5, 2]]


def test_two_steps_take_two_rewards() -> None:
    assert k_step_returns(REWARDS, VALUES, k=2, gamma=0.5).tolist() == [[1 + 0 + 0.25 * 3, 0 + 0.5 * 2, 2]]


def test_steps_beyond_the_end_are_monte_carlo() -> None:
    monte_carlo = rewards_to_go(REWARDS, gamma=0.5)
    for k in (3, 99):
        torch.testing.assert_close(k_step_returns(REWARDS, VALUES, k=k, gamma=0.5), monte_carlo)


def test_gae_by_hand() -> None:
    surprises = [1 + 0.5 * 1 - 0.5, 0 + 0.5 * 3 - 1, 2 + 0 - 3]  # 1, 0.5, -1
    faded = 0.5 * 0.8
    last = surprises[2]
    middle = surprises[1] + faded * last
    torch.testing.assert_close(
        gae(REWARDS, VALUES, gamma=0.5, lam=0.8),
        torch.tensor([[surprises[0] + faded * middle, middle, last]]),
    )


@given(st.integers(1, 9), st.floats(0, 1), st.integers(0, 1000))
def test_gae_goes_from_td_to_monte_carlo(seq: int, gamma: float, seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    rewards, values = (torch.randn(2, seq, generator=drawn, dtype=torch.float64) for _ in range(2))
    one_step = td_returns(rewards, values, gamma=gamma) - values
    whole = rewards_to_go(rewards, gamma=gamma) - values
    torch.testing.assert_close(gae(rewards, values, gamma=gamma, lam=0), one_step)
    torch.testing.assert_close(gae(rewards, values, gamma=gamma, lam=1), whole)


def test_gae_is_the_fading_mean_of_all_k_step_advantages() -> None:
    lam, rewards, values = 0.7, torch.randn(2, 5), torch.randn(2, 5)
    mean = torch.zeros(2, 5)
    for k in range(1, 60):  # beyond the end all are alike; lam**60 is nothing
        mean += (1 - lam) * lam ** (k - 1) * (k_step_returns(rewards, values, k=k, gamma=0.9) - values)
    torch.testing.assert_close(gae(rewards, values, gamma=0.9, lam=lam), mean, atol=1e-5, rtol=1e-5)


def test_zeros_behind_an_end_change_nothing_before_it() -> None:
    padded = gae(
        torch.nn.functional.pad(REWARDS, (0, 4)), torch.nn.functional.pad(VALUES, (0, 4)), gamma=0.9, lam=0.5
    )
    torch.testing.assert_close(padded[:, :3], gae(REWARDS, VALUES, gamma=0.9, lam=0.5))
    assert not padded[:, 3:].any()


def test_a_critic_s_loss_is_half_the_squared_distance_and_moves_only_the_critic() -> None:
    values, returns = VALUES.clone().requires_grad_(), torch.tensor([[1.5, 1.0, 1.0]], requires_grad=True)
    loss = critic_loss(values, returns)
    loss.sum().backward()
    assert loss.tolist() == [[0.5, 0, 2]]
    assert values.grad is not None
    assert values.grad.tolist() == [[-1, 0, 2]]
    assert returns.grad is None


def test_whitened_advantages_have_mean_0_and_variance_1_where_they_are() -> None:
    there = torch.tensor([[True, True, False], [True, True, True]])
    white = whitened(torch.tensor([[1.0, 2.0, 99.0], [3.0, 4.0, 5.0]]), there)
    assert white[0, 2] == 0
    torch.testing.assert_close(white[there].mean(), torch.tensor(0.0))
    torch.testing.assert_close(white[there].var(correction=0), torch.tensor(1.0))


def test_one_advantage_alone_is_whitened_to_nothing() -> None:
    assert whitened(torch.tensor([[7.0]]), torch.tensor([[True]])).tolist() == [[0]]
