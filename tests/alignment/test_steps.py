"""The objectives of PPO and GRPO, by hand, on a policy whose probabilities are given."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from luban.alignment.grpo_step import GroupObjective, group_advantages
from luban.alignment.ppo_config import AdvantageConfig, LossConfig
from luban.alignment.ppo_step import CriticObjective, PolicyObjective, explained_variance, weighed
from luban.alignment.replay import Replay
from tests.alignment.experiences import THERE, experience


class Told(nn.Module):
    """A policy over two tokens whose states are what the head makes of nothing: even odds everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 16, bias=False)
        nn.init.zeros_(self.head.weight)

    def hidden(self, tokens: Tensor) -> Tensor:
        return torch.ones(*tokens.shape, 1)


EVEN = -math.log(16)


def old_at(*ratios: float) -> Tensor:
    """Old log-probabilities under which `Told` has these ratios, where there are actions."""
    return torch.where(THERE, EVEN - torch.zeros(2, 3).masked_scatter(THERE, torch.tensor(ratios).log()), 0.0)


def test_the_policy_s_loss_is_the_clipped_surrogate_summed_over_actions() -> None:
    batch = experience(
        logps=old_at(1.5, 0.5, 1.0, 1.1, 0.5), advantages=torch.tensor([[1.0, 1, 9], [2, -1, -1]])
    )
    step = PolicyObjective(LossConfig(cliprange=0.2), temperature=1.0)(Told(), batch)
    assert step.targets == 5
    assert step.loss.item() == pytest.approx(-(1.2 + 0.5 + 2.0 - 1.1 - 0.8), rel=1e-5)


def test_without_a_clip_the_ratio_has_no_bound() -> None:
    batch = experience(logps=old_at(1.5, 1, 1, 1, 1), advantages=torch.ones(2, 3))
    objective = PolicyObjective(LossConfig(cliprange=0), temperature=1.0)
    assert objective(Told(), batch).loss.item() == pytest.approx(-5.5, rel=1e-5)
    assert "policy/clipped" not in objective.tally.means()


def test_the_clip_s_share_and_the_distance_moved_are_noted() -> None:
    batch = experience(logps=old_at(1.5, 1, 1, 1, 1), advantages=torch.ones(2, 3))
    objective = PolicyObjective(LossConfig(), temperature=1.0)
    objective(Told(), batch)
    told = objective.tally.means()
    assert told["policy/clipped"] == pytest.approx(1 / 5)
    assert told["policy/moved"] == pytest.approx((0.5 - math.log(1.5)) / 5, rel=1e-4)
    assert told["policy/entropy"] == pytest.approx(math.log(16))


@pytest.mark.parametrize(("clip", "bonus"), [(0.0, math.log(16)), (2.0, 2.0), (9.0, math.log(16))])
def test_being_undecided_is_rewarded_up_to_a_bound(clip: float, bonus: float) -> None:
    config = LossConfig(entropy_coef=0.1, entropy_clip=clip)
    step = PolicyObjective(config, temperature=1.0)(Told(), experience(logps=old_at(1, 1, 1, 1, 1)))
    assert step.loss.item() == pytest.approx(-0.1 * bonus * 5, rel=1e-5)


@pytest.mark.parametrize(("coef", "pulls"), [(0.0, False), (0.1, True)])
def test_being_undecided_pulls_at_the_policy_only_where_it_is_rewarded(coef: float, pulls: bool) -> None:
    policy = Told()
    torch.nn.init.normal_(policy.head.weight)
    PolicyObjective(LossConfig(entropy_coef=coef), temperature=1.0)(policy, experience()).loss.backward()
    assert policy.head.weight.grad is not None
    assert bool(policy.head.weight.grad.any()) == pulls


def critic_saying(value: float) -> Any:
    backbone = SimpleNamespace(hidden=lambda tokens: torch.ones(*tokens.shape, 1))
    return SimpleNamespace(backbone=backbone, scored=lambda states: torch.full((len(states), 1), value))


@pytest.mark.parametrize(("clip", "each"), [(0.0, 0.5 * 0.5**2), (0.2, 0.5 * 0.8**2)])
def test_the_critic_s_loss_is_clipped_against_its_old_values(clip: float, each: float) -> None:
    batch = experience(values=THERE.float(), returns=2 * THERE.float())
    objective = CriticObjective(LossConfig(cliprange_value=clip))
    step = objective(critic_saying(1.5), batch)
    assert step.loss.item() == pytest.approx(5 * each)
    assert objective.tally.means() == ({"value/clipped": 1.0} if clip else {})


def test_advantages_are_weighed_whitened_and_clipped_as_told() -> None:
    rewards, values = torch.tensor([[0.0, 1, 0], [0, 0, 2]]), 0.5 * THERE
    plain = AdvantageConfig(gamma=1, lam=1, whiten=False)
    told = weighed(experience(values=values), rewards, plain)
    torch.testing.assert_close(told.advantages, torch.tensor([[0.5, 0.5, 0.0], [1.5, 1.5, 1.5]]))
    torch.testing.assert_close(told.returns, torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 2.0]]))
    white = weighed(experience(values=values), rewards, dataclasses.replace(plain, whiten=True)).advantages
    torch.testing.assert_close(white[THERE].std(correction=0), torch.tensor(1.0))
    held = weighed(experience(values=values), rewards, dataclasses.replace(plain, clip=1.0)).advantages
    assert held.max() == 1


def test_explained_variance_is_one_for_a_prophet_and_zero_for_a_constant() -> None:
    returns = torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0]])
    assert explained_variance(experience(returns=returns, values=returns)) == 1
    assert explained_variance(experience(returns=returns, values=7 * THERE.float())) == pytest.approx(0)
    assert explained_variance(experience()) == 0


def test_a_group_s_advantages_are_against_its_own_mean() -> None:
    rewards = [1.0, 0.0, 0.0, 0.0, 5.0, 5.0, 5.0, 5.0]
    plain = group_advantages(rewards, group=4, scale="none")
    assert plain.tolist() == [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0]
    grouped = group_advantages(rewards, group=4, scale="group")
    torch.testing.assert_close(grouped, plain / (0.5 + 1e-4))
    deviation = torch.tensor(rewards).std()
    torch.testing.assert_close(group_advantages(rewards, group=4, scale="batch"), plain / (deviation + 1e-4))


@pytest.mark.parametrize(
    ("loss_type", "loss", "targets"),
    [("token", -(2 * 1.0 + 3 * 4.0), 5), ("sequence", -(1.0 + 4.0), 2)],
)
def test_grpo_averages_over_tokens_or_over_answers(loss_type: Any, loss: float, targets: int) -> None:
    batch = experience(logps=old_at(1, 1, 1, 1, 1), advantages=torch.tensor([[1.0, 1, 0], [4, 4, 4]]))
    objective = GroupObjective(low=0.2, high=0.2, beta=0.0, loss_type=loss_type, temperature=1.0)
    step = objective(Told(), batch)
    assert (step.loss.item(), step.targets) == (pytest.approx(loss, rel=1e-5), targets)


def test_grpo_s_clip_higher_and_its_price_of_the_reference() -> None:
    batch = experience(
        logps=old_at(1.5, 1, 1, 1, 1), advantages=torch.ones(2, 3), reference_logps=old_at(2, 1, 1, 1, 1)
    )
    made = {"low": 0.2, "loss_type": "token", "temperature": 1.0}
    higher = GroupObjective(**made, high=0.28, beta=0.0)(Told(), batch)
    assert higher.loss.item() == pytest.approx(-(1.28 + 4), rel=1e-5)
    priced = GroupObjective(**made, high=0.28, beta=0.1)(Told(), batch)
    k3 = 0.5 - math.log(0.5) - 1  # the reference finds the first action half as likely
    assert priced.loss.item() == pytest.approx(-(1.28 + 4) + 0.1 * k3, rel=1e-5)


def test_replay_gives_the_past_once_it_is_there_and_forgets_in_turn() -> None:
    replay = Replay(1)
    first, second, third = (experience(advantages=torch.full((2, 3), float(n))) for n in range(3))
    assert replay.with_past(first) is first
    assert replay.with_past(second).advantages[:, 0].tolist() == [1, 1, 0, 0]
    restored = Replay(1)
    restored.restore(replay.state())
    whole = restored.with_past(third)
    assert whole.advantages[:, 0].tolist() == [2, 2, 1, 1]
    assert [str(origin) for origin in whole.ids] == ["rows #1", "rows #2"] * 2
