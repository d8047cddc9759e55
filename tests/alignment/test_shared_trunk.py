"""A critic on the policy's own trunk: one pass says both, one loss teaches both, and a run of it goes on exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from luban.alignment import ppo
from luban.alignment.likelihood import expected, likelihood
from luban.alignment.ppo_config import LossConfig
from luban.alignment.ppo_step import CriticObjective, PolicyObjective, SharedObjective
from luban.alignment.roles import critic_on, reference_of, remembered
from luban.alignment.rollout import Answer
from luban.config import load
from luban.errors import ConfigError
from luban.models import hf
from luban.peft.opening import open_model
from luban.training.metrics import read_log
from tests import tiny
from tests.alignment.experiences import THERE, experience
from tests.alignment.models import prompts, write_policy
from tests.alignment.planted import LEAST_KL, STEADY, mean_of, plant, run_stage
from tests.alignment.test_ppo import ENDS_THE_RUN, LORA, config_for, same
from tests.alignment.test_steps import Told, old_at

SEPARATE = "critic_optimizer.learning_rate=1e-3"


def shared_objective(config: LossConfig, vf_coef: float) -> SharedObjective:
    return SharedObjective(PolicyObjective(config, temperature=1.0), CriticObjective(config), vf_coef=vf_coef)


def test_the_joint_loss_is_the_policy_s_and_a_share_of_the_critic_s() -> None:
    batch = experience(
        logps=old_at(1.5, 0.5, 1.0, 1.1, 0.5),
        advantages=torch.tensor([[1.0, 1, 9], [2, -1, -1]]),
        values=THERE.float(),
        returns=2 * THERE.float(),
    )
    says: Any = SimpleNamespace(backbone=Told(), scored=lambda states: torch.full((len(states), 1), 1.5))
    objective = shared_objective(LossConfig(cliprange=0.2, cliprange_value=0.0), 0.1)
    step = objective(says, batch)
    assert step.targets == 5
    surrogate, squares = -(1.2 + 0.5 + 2.0 - 1.1 - 0.8), 5 * 0.5 * 0.5**2
    assert step.loss.item() == pytest.approx(surrogate + 0.1 * squares, rel=1e-5)
    told = objective.tally.means()
    assert told["value/loss"] == pytest.approx(0.5 * 0.5**2)
    assert told["policy/clipped"] == pytest.approx(2 / 5)


def test_its_gradient_is_the_policy_s_and_a_share_of_the_critic_s() -> None:
    torch.manual_seed(0)
    policy = tiny.llama()
    critic = critic_on(policy)
    torch.nn.init.normal_(critic.score.weight)
    logps = likelihood(policy, experience()).logps.detach() - 0.1 * THERE
    batch = experience(logps=logps, advantages=torch.randn(2, 3), returns=torch.randn(2, 3))
    config = LossConfig()

    def gradients(objective: Any, model: Any) -> dict[str, torch.Tensor]:
        critic.zero_grad()
        objective(model, batch).loss.backward()
        return {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
            for name, weight in critic.named_parameters()
        }

    acting = gradients(PolicyObjective(config, temperature=1.0), policy)
    valuing = gradients(CriticObjective(config), critic)
    joint = gradients(shared_objective(config, 0.25), critic)
    assert valuing["backbone.blocks.0.mlp.down.weight"].abs().max() > 0
    for name, gradient in joint.items():
        torch.testing.assert_close(gradient, acting[name] + 0.25 * valuing[name])


def test_policy_and_critic_are_read_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_policy(tmp_path / "policy")
    policy = hf.load(folder)
    critic = critic_on(policy)
    torch.nn.init.normal_(critic.score.weight)
    asked = prompts(tmp_path)[:3]
    answers = [
        Answer(prompt=prompt, tokens=[7, 8, 9], logps=[-1.0] * 3, finished=False, text="") for prompt in asked
    ]
    passes: list[int] = []
    inner = policy.hidden
    monkeypatch.setattr(policy, "hidden", lambda *told: passes.append(1) or inner(*told))
    reference = reference_of(policy, base=folder, device=torch.device("cpu"))
    found, _ = remembered(policy, reference, critic, answers, temperature=1.0, rows=3)
    assert len(passes) == 1
    with torch.no_grad():
        torch.testing.assert_close(found.values, expected(critic, found))
        torch.testing.assert_close(found.logps, likelihood(policy, found).logps)


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(
    "peft", [pytest.param({}, id="whole"), pytest.param(LORA, id="lora", marks=pytest.mark.slow)]
)
def test_a_run_that_was_cut_goes_on_to_the_bit(tmp_path: Path, peft: dict[str, Any]) -> None:
    loss = LossConfig(vf_coef=0.5)
    whole = config_for(tmp_path, out=tmp_path / "whole", critic_trunk="shared", loss=loss, peft=peft)
    ppo.run(whole)
    (tmp_path / "once.py").write_text(ENDS_THE_RUN, encoding="utf-8")
    cut = dataclasses.replace(whole, out=tmp_path / "cut", reward=f"{tmp_path / 'once.py'}:once")
    with pytest.raises(KeyboardInterrupt):
        ppo.run(cut)
    ppo.run(cut)
    figures = [
        [{name: value for name, value in line.items() if "seconds" not in name} for line in read_log(out)]
        for out in (whole.out, cut.out)
    ]
    assert figures[0] == figures[1]
    assert all(line["value/loss"] > 0 for line in figures[0])
    ended = [dict(open_model(out / "final").named_parameters()) for out in (whole.out, cut.out)]
    assert same(*ended)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("critic=somewhere", "critic"),
        ("critic_warmup=3", "critic_warmup"),
        (SEPARATE, "critic_optimizer"),
    ],
)
def test_it_has_no_settings_of_a_critic_of_its_own(words: str, name: str) -> None:
    told = f"model=m data=d reward=verify:regex out=o critic_trunk=shared {words}".split()
    with pytest.raises(ConfigError, match="no weights, warm-up or optimizer of its own") as caught:
        load(ppo.Config, told, where="test")
    assert f"'{name}'" in str(caught.value)


@pytest.mark.slow
def test_it_learns_what_a_separate_critic_helps_to_learn(tmp_path: Path) -> None:
    words = f"{STEADY.replace(SEPARATE, '')} critic_trunk=shared"
    *lines, held_out = run_stage(ppo, plant(tmp_path / "planted"), tmp_path / "run", words)
    assert lines[0]["rollout/reward"] < 0.3
    assert mean_of(lines[-5:], "rollout/reward") > 0.8
    assert held_out["val/reward"] > 0.8
    assert mean_of(lines[-5:], "rollout/kl") < 2 * LEAST_KL
    assert max(line["value/explained"] for line in lines) > 0.1  # a head that learns nothing says 0
