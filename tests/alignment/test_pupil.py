"""Learning from an experience: the same in one pass or in many, on one process or on two; stopped where told."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from luban.alignment.config import PolicyOptimizer, RoundsConfig
from luban.alignment.experience import Experience, gathered
from luban.alignment.grpo_step import GroupObjective
from luban.alignment.ppo_config import LossConfig
from luban.alignment.ppo_step import CriticObjective, PolicyObjective
from luban.alignment.prompts import Prompt
from luban.alignment.pupil import Noting, Pupil, learn
from luban.alignment.rollout import answer_all
from luban.models.classifier import Classifier
from luban.training.config import ParallelConfig
from luban.training.parallel.spread import Undivided, spread
from luban.training.parallel.world import ALONE, World, joined
from tests import tiny
from tests.ranks import run_ranks

OPTIMIZER = PolicyOptimizer(learning_rate=1e-2, adam_epsilon=1e-3)


def fixed() -> Experience:
    """Eight answers of a random policy, with advantages and returns out of the air."""
    torch.manual_seed(0)
    asked = [Prompt(ids=[5 + n, 6, 7][: 1 + n % 3], row={}, where=f"rows:{n}") for n in range(8)]
    answers = answer_all(tiny.llama(), asked, tokenizer=tiny.tokenizer(), max_tokens=6)
    told = gathered(answers)
    some = torch.randn(2, *told.there.shape) * told.there
    return dataclasses.replace(told, advantages=some[0], returns=some[1])


def objectives(name: str) -> tuple[Any, Noting]:
    """A fresh model, always the same, and what it is taught by."""
    torch.manual_seed(1)
    if name == "critic":
        return Classifier(tiny.llama(), 1), CriticObjective(LossConfig())
    if name == "ppo":
        return tiny.llama(), PolicyObjective(LossConfig(entropy_coef=0.1), temperature=1.0)
    made: dict[str, Any] = {"low": 0.2, "high": 0.28, "beta": 0.1, "temperature": 1.0}
    return tiny.llama(), GroupObjective(**made, loss_type="sequence" if name == "grpo-sequence" else "token")


def taught(name: str, experience: Experience, *, rows: int, world: World = ALONE) -> list[torch.Tensor]:
    """The weights after two steps on `experience`."""
    model, objective = objectives(name)
    loop = RoundsConfig(max_steps=2, per_device_train_batch_size=rows)
    laid_out = spread(model, world, ParallelConfig())
    pupil = Pupil("policy", laid_out, objective, OPTIMIZER, loop=loop, world=world)
    for step in (1, 2):
        pupil.update(experience, step=step)
    return [weight.detach().clone() for weight in model.parameters()]


NAMES = ("ppo", "grpo-token", "grpo-sequence", "critic")


@pytest.mark.parametrize("name", NAMES)
def test_rows_in_one_pass_or_in_several_are_one_step(name: str) -> None:
    whole = taught(name, fixed(), rows=8)
    for rows in (1, 3):
        for one, other in zip(whole, taught(name, fixed(), rows=rows), strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-3)


def on_a_rank(name: str) -> list[np.ndarray]:
    with joined(ParallelConfig(), torch.device("cpu")) as world:
        return [weight.numpy() for weight in taught(name, fixed(), rows=2, world=world)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "grpo-sequence"])
def test_two_processes_learn_from_fixed_answers_what_one_does(name: str) -> None:
    whole = taught(name, fixed(), rows=8)
    for weights in run_ranks(2, on_a_rank, name):
        for one, other in zip(whole, weights, strict=True):
            torch.testing.assert_close(one, torch.from_numpy(other), atol=2e-5, rtol=1e-3)


def test_a_policy_that_moved_too_far_ends_the_iteration() -> None:
    experience = fixed()
    model, objective = objectives("ppo")
    loop = RoundsConfig(max_steps=1, epochs=5, minibatch=4)
    pupil = Pupil("policy", Undivided(model), objective, OPTIMIZER, loop=loop)
    whole = learn(experience, [pupil], step=1, loop=loop)
    assert whole["policy/steps"] == 10
    cut = learn(experience, [pupil], step=1, loop=loop, stop_kl=1e-6)
    assert cut["policy/steps"] == 1


def test_nothing_to_learn_from_is_no_step() -> None:
    model, objective = objectives("ppo")
    loop = RoundsConfig()
    pupil = Pupil("policy", Undivided(model), objective, OPTIMIZER, loop=loop)
    assert learn(fixed().select([]), [pupil], step=1, loop=loop) == {
        "policy/skipped": 0,
        "policy/steps": 0,
    }


def test_figures_are_means_over_steps() -> None:
    model, objective = objectives("ppo")
    loop = RoundsConfig(max_steps=1, epochs=2)
    pupil = Pupil("policy", Undivided(model), objective, OPTIMIZER, loop=loop)
    told = learn(fixed(), [pupil], step=1, loop=loop)
    assert set(told) == {
        "policy/loss",
        "policy/grad_norm",
        "policy/clipped",
        "policy/moved",
        "policy/entropy",
        "policy/skipped",
        "policy/steps",
    }
