"""`luban plan ppo=...`: policy, critic, reference and reward model, by formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luban.config import load
from luban.errors import ConfigError
from luban.models.llama import LlamaConfig
from luban.training.reinforced import ppo_bytes
from luban.training.sizes import count
from luban.tuning import plan

SHAPE = LlamaConfig(layers=2, dim=64, heads=4, hidden=176, vocab=96, context=64, tied=False)
HEAD = 96 * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE.to_hf()), encoding="utf-8")
    return tmp_path


def memory(folder: Path, words: str) -> dict[str, float]:
    told: dict[str, Any] = plan.run(
        load(plan.Config, f"model={folder} threads=1 {words}".split(), where="test")
    )
    return told["memory_bytes"]


TRAINED = {"weights": 400.0, "activations": 900.0, "logits": 100.0, "heap": 500.0, "total": 1900.0}
NUMBERS: dict[str, Any] = {"body": 90, "whole": 100, "vocab": 10, "tokens": 5}
LOGITS = 2 * 4 * 10 * 5
"""Two more copies of float32 logits of five tokens, which is fewer than a chunk."""


def test_each_role_is_counted_by_what_it_holds() -> None:
    told = ppo_bytes(TRAINED, **NUMBERS, trunk="separate", adapted=False)
    assert (told["critic"], told["reference"], told["reward"]) == (90 * 12, 100 * 4, 90 * 4)
    assert (told["logits"], told["heap"]) == (
        100 + LOGITS,
        500 + LOGITS / 2,
    )  # the heap is half of what comes
    assert told["total"] == 1900 + 1080 + 400 + 360 + 1.5 * LOGITS


def test_a_shared_trunk_has_no_critic_and_an_adapter_no_reference() -> None:
    told = ppo_bytes(TRAINED, **NUMBERS, trunk="shared", adapted=True)
    assert (told["critic"], told["reference"], told["reward"]) == (0, 0, 360)


def test_ppo_is_planned_beside_what_training_takes(folder: Path) -> None:
    alone, whole = memory(folder, ""), count(SHAPE)
    separate, shared = memory(folder, "ppo=separate"), memory(folder, "ppo=shared")
    roles = 12 * (whole - HEAD) + 4 * whole + 4 * (whole - HEAD)
    more = sum(separate[part] - alone[part] for part in ("logits", "heap"))
    assert separate["total"] == pytest.approx(alone["total"] + roles + more)
    assert separate["total"] - shared["total"] == pytest.approx(12 * (whole - HEAD))
    assert memory(folder, "ppo=shared peft.method=lora peft.r=2")["reference"] == 0


@pytest.mark.parametrize("words", ["minutes=1", "cluster=8xA100"])
def test_ppo_is_planned_for_a_known_model_here_only(folder: Path, words: str) -> None:
    with pytest.raises(ConfigError, match="known model on this machine"):
        memory(folder, f"ppo=shared {words}")
