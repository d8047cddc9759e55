"""The stage `grpo`: groups of answers to each prompt, no critic, rewards that a program checks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.alignment import grpo, roles
from luban.alignment.config import PolicyOptimizer, RolloutConfig, RoundsConfig
from luban.models import hf
from luban.peft.opening import is_adapter
from luban.training.metrics import read_log
from tests.alignment.models import ASKED, write_function, write_policy, write_prompts, write_rows

pytestmark = pytest.mark.usefixtures("no_page")


def config_for(folder: Path, **changes: Any) -> grpo.Config:
    """A run of a few quick iterations."""
    if not (folder / "policy").is_dir():
        write_policy(folder / "policy")
    told = grpo.Config(
        model=folder / "policy",
        data=(write_prompts(folder / "prompts.jsonl"),),
        reward=f"{write_function(folder / 'mine.py')}:shortness",
        out=folder / "run",
        num_generations=4,
        rollout=RolloutConfig(prompts=3, max_tokens=6),
        loop=RoundsConfig(max_steps=2, save_steps=0),
        optimizer=PolicyOptimizer(learning_rate=1e-3),
        threads=1,
    )
    return dataclasses.replace(told, **changes)


def test_every_prompt_gets_its_group_and_the_policy_moves(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    grpo.run(config)
    rows = [json.loads(line) for line in (config.out / "rollouts.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 2 * 3 * 4
    for start in range(0, len(rows), 4):
        assert len({row["row"] for row in rows[start : start + 4]}) == 1
    before, after = hf.load(config.model), hf.load(config.out / "final")
    assert not torch.equal(before.embedding.weight, after.embedding.weight)
    last = [line for line in read_log(config.out) if "rollout/reward" in line][-1]
    assert {"rollout/silent_groups", "policy/clipped", "policy/moved", "rollout/kl"} <= set(last)
    assert not any(name.startswith("value/") for name in last)


@pytest.mark.parametrize(("beta", "rows"), [(0.0, 3), (0.1, 12)])
def test_a_reference_without_a_price_reads_one_answer_a_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beta: float, rows: int
) -> None:
    read: list[int] = []
    true = roles.likelihood

    def counted(model: Any, batch: Any, **told: Any) -> Any:
        read.append(len(batch))
        return true(model, batch, **told)

    monkeypatch.setattr(roles, "likelihood", counted)
    config = config_for(tmp_path, beta=beta, loop=RoundsConfig(max_steps=2, save_steps=0))
    grpo.run(config)
    assert sum(read) == 2 * rows
    first, last = [line for line in read_log(config.out) if "rollout/kl" in line]
    assert first["rollout/kl"] == pytest.approx(0, abs=1e-5)
    assert last["rollout/kl"] != 0


def test_groups_that_agree_teach_nothing(tmp_path: Path) -> None:
    rows = [{"prompt": asked, "answer": "31415926"} for asked in ASKED]  # which no random answer is
    data = (write_rows(tmp_path / "sums.jsonl", rows),)
    config = config_for(tmp_path, data=data, reward="verify:arithmetic")
    grpo.run(config)
    before, after = hf.load(config.model), hf.load(config.out / "final")
    assert all(line["rollout/silent_groups"] == 1 for line in read_log(config.out))
    assert torch.equal(before.embedding.weight, after.embedding.weight)


def test_an_adapter_can_be_what_learns(tmp_path: Path) -> None:
    peft = {"method": "lora", "r": 2, "target_modules": "q_proj"}
    config = config_for(tmp_path, peft=peft)
    grpo.run(config)
    assert is_adapter(config.out / "final")
    merged = dataclasses.replace(config, peft={**peft, "merge": True}, out=tmp_path / "merged")
    grpo.run(merged)
    assert not is_adapter(merged.out / "final")


@pytest.mark.slow
def test_a_preferred_length_is_learned_from_comparison_alone(tmp_path: Path) -> None:
    config = config_for(
        tmp_path,
        loop=RoundsConfig(max_steps=12, epochs=3, save_steps=0),
        rollout=RolloutConfig(prompts=8, max_tokens=6),
        num_generations=8,
        optimizer=PolicyOptimizer(learning_rate=3e-3),
    )
    grpo.run(config)
    rewards = [line["rollout/reward"] for line in read_log(config.out)]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1
