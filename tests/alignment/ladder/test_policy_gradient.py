"""REINFORCE, baselines and reward-to-go: the gradient is right, a baseline leaves it so and makes it less noisy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from luban.alignment.ladder.baseline import RunningBaseline, leave_one_out
from luban.alignment.ladder.reinforce import policy_gradient_loss, total_returns
from luban.alignment.ladder.rewards_to_go import rewards_to_go
from tests.alignment.ladder.environments import ARMS, pull

REWARDS = torch.tensor([[1.0, 0.0, 4.0], [2.0, -1.0, 0.0]])


def test_every_action_gets_its_trajectory_s_total() -> None:
    assert total_returns(REWARDS).tolist() == [[5, 5, 5], [1, 1, 1]]


def test_an_action_answers_for_what_came_after_it_and_less_for_what_came_late() -> None:
    assert rewards_to_go(REWARDS).tolist() == [[5, 4, 4], [1, -1, 0]]
    assert rewards_to_go(REWARDS, gamma=0.5).tolist() == [[1 + 0 + 1, 2, 4], [1.5, -1, 0]]


def test_a_sample_s_baseline_is_the_mean_of_the_others() -> None:
    assert leave_one_out(torch.tensor([[1.0, 2.0, 6.0]])).tolist() == [[4, 3.5, 1.5]]
    with pytest.raises(ValueError, match="no others"):
        leave_one_out(torch.ones(2, 1))


def test_a_running_baseline_knows_only_what_came_before() -> None:
    baseline = RunningBaseline()
    assert [baseline(torch.tensor([2.0, 4.0])), baseline(torch.tensor([9.0])), baseline(torch.zeros(1))] == [
        0,
        3,
        5,
    ]


def test_the_expected_gradient_is_that_of_the_expected_reward() -> None:
    logits = torch.tensor([0.3, -0.2, 0.1, 0.0], requires_grad=True)
    (expected,) = torch.autograd.grad((logits.softmax(0) * ARMS).sum(), logits)
    mean = torch.zeros(4)
    for arm, chance in enumerate(logits.softmax(0).detach()):  # all that can happen, each as often as it does
        mean += chance * gradient(logits, torch.tensor([arm]), ARMS[arm : arm + 1])
    torch.testing.assert_close(mean, expected)


def test_a_baseline_leaves_the_mean_gradient_and_shrinks_its_variance() -> None:
    torch.manual_seed(0)
    logits = torch.zeros(4, requires_grad=True)
    plain, based = [], []
    for _ in range(400):
        actions, rewards = pull(logits.detach(), 16)
        rewards = rewards + 3  # praise for everything, as rewards without a zero give
        plain.append(gradient(logits, actions, rewards))
        based.append(gradient(logits, actions, rewards - leave_one_out(rewards[None])[0]))
    far = torch.stack(plain).mean(0) - torch.stack(based).mean(0)
    assert far.abs().max() < 0.1
    assert torch.stack(based).var(0).sum() < 0.1 * torch.stack(plain).var(0).sum()


def gradient(logits: Tensor, actions: Tensor, weights: Tensor) -> Tensor:
    """What REINFORCE climbs: minus the gradient of the mean loss."""
    logps = logits.log_softmax(0)[actions]
    (found,) = torch.autograd.grad(-policy_gradient_loss(logps[None], weights[None]).mean(), logits)
    return found


@pytest.mark.parametrize("baseline", [False, True])
def test_a_bandit_learns_its_best_arm(baseline: bool) -> None:
    torch.manual_seed(1)
    logits = torch.zeros(4, requires_grad=True)
    optimizer, running = torch.optim.Adam([logits], lr=0.1), RunningBaseline()
    for _ in range(150):
        actions, rewards = pull(logits.detach(), 16)
        weights = rewards - running(rewards) if baseline else rewards
        optimizer.zero_grad()
        policy_gradient_loss(logits.log_softmax(0)[actions][None], weights[None]).mean().backward()
        optimizer.step()
    assert logits.softmax(0)[2] > 0.9
