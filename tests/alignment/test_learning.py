"""It learns: a planted preference goes from seldom to nearly always at a bounded KL, and drifts unsecured."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from luban.alignment import grpo, ppo
from luban.training.metrics import read_log
from tests.alignment.planted import (
    CHECKED_SUMS,
    GROUPS,
    LEAST_KL,
    STEADY,
    SWITCHES_OFF,
    mean_of,
    plant,
    plant_sums,
    run_stage,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("planted") / "root")


def test_ppo_raises_a_planted_preference_at_a_bounded_kl_and_without_its_switches_drifts(
    planted: Path, tmp_path: Path
) -> None:
    *steady, held_out = run_stage(ppo, planted, tmp_path / "on", STEADY)
    assert steady[0]["rollout/reward"] < 0.3
    assert mean_of(steady[-5:], "rollout/reward") > 0.8
    assert held_out["val/reward"] > 0.8
    assert mean_of(steady[-5:], "rollout/kl") < 2 * LEAST_KL
    assert (
        median(line["value/explained"] for line in steady) > 0.4
    )  # one failure among many can be foreseen by nobody
    often = "loop.max_steps=15 loop.epochs=4"  # with the switches on, 2.1 nats from its reference
    *loose, _ = run_stage(ppo, planted, tmp_path / "off", f"{STEADY} {SWITCHES_OFF} {often}")
    assert mean_of(loose[-3:], "rollout/kl") > 5 * LEAST_KL
    assert mean_of(loose[-3:], "rollout/finished") < mean_of(steady[-5:], "rollout/finished")


def test_grpo_raises_it_without_a_critic(planted: Path, tmp_path: Path) -> None:
    *lines, held_out = run_stage(grpo, planted, tmp_path / "run", GROUPS)
    assert lines[0]["rollout/reward"] < 0.3
    assert mean_of(lines[-5:], "rollout/reward") > 0.8
    assert held_out["val/reward"] > 0.8
    assert mean_of(lines[-5:], "rollout/kl") < 2 * LEAST_KL


def test_grpo_at_least_doubles_the_held_out_accuracy_of_careless_sums(tmp_path: Path) -> None:
    planted = plant_sums(tmp_path / "sums")
    *lines, held_out = run_stage(grpo, planted, tmp_path / "run", CHECKED_SUMS)
    before = read_log(tmp_path / "run")[0]["val/reward"]
    assert before < 0.5
    assert held_out["val/reward"] >= 2 * before
    assert mean_of(lines[-5:], "rollout/reward") >= 2 * lines[0]["rollout/reward"]
