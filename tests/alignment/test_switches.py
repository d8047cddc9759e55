"""Every setting of `ppo` and `grpo` changes what a run leaves behind; `test_settings.py` asks for each to be here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.cli import main
from luban.models.classifier import Classifier
from luban.training.checkpoint import write_model_folder
from luban.training.metrics import read_log
from tests import tiny
from tests.alignment.models import write_function, write_policy, write_prompts, write_rows
from tests.conftest import Workspace

BASE = (
    "--model {policy} --data {prompts} --reward {mine}:shortness --out {out} --threads 1 rollout.prompts=3"
    " rollout.max_tokens=5 loop.max_steps=2 loop.save_steps=0 optimizer.learning_rate=1e-3"
)
"""The words of a base run; {name} is a path of `places`, {out} a fresh folder."""
OPTIMIZER = {
    "learning_rate": "{0}.learning_rate=0.01",
    "lr_scheduler_type": "{0}.lr_scheduler_type=linear",
    "warmup_steps": "{0}.warmup_steps=2",
    "min_lr_ratio": "{0}.lr_scheduler_type=linear | {0}.min_lr_ratio=0.9",
    "decay_ratio": "loop.max_steps=4 {0}.lr_scheduler_type=wsd | {0}.decay_ratio=0.9",
    "weight_decay": "{0}.weight_decay=5",
    "adam_beta1": "{0}.adam_beta1=0.5",
    "adam_beta2": "{0}.adam_beta2=0.5",
    "adam_epsilon": "{0}.adam_epsilon=1e-3",
    "max_grad_norm": "{0}.max_grad_norm=1e-9",
}
SHARED = {
    "model": "--model {other}",
    "data": "--data {other_prompts}",
    "reward": "--reward verify:arithmetic",
    "validation": "--validation {other_prompts}",
    "plain": "--plain",
    "peft": "peft.method=lora peft.r=2 peft.target_modules=q_proj",
    "seed": "--seed 5",
    "rollout.prompts": "rollout.prompts=2",
    "rollout.max_tokens": "rollout.max_tokens=4",
    "rollout.temperature": "rollout.temperature=0.5",
    "rollout.truncated": "rollout.truncated=mask",
    "rollout.truncated_reward": "rollout.truncated=penalise shaping.scaling=none | rollout.truncated_reward=-9",
    "loop.max_steps": "loop.max_steps=1",
    "loop.epochs": "loop.epochs=2",
    "loop.minibatch": "loop.minibatch=1",
    "loop.eval_steps": "--validation {other_prompts} | loop.eval_steps=1",
    "loop.save_steps": "loop.save_steps=1",
    "loop.save_total_limit": "loop.save_steps=1 | loop.save_total_limit=1",
    **{f"optimizer.{name}": words.format("optimizer") for name, words in OPTIMIZER.items()},
}


def seen_later(words: str) -> str:
    """A change of the critic's optimizer in a run of three iterations: what the critic learned shows in the next."""
    both, _, change = words.format("critic_optimizer").rpartition("|")
    return f"loop.max_steps=3 {both} | {change}"


LONG = "loop.epochs=3 loop.minibatch=1 optimizer.learning_rate=0.02 critic_optimizer.learning_rate=0.02"
CHANGES: dict[str, dict[str, str]] = {
    "ppo": {
        **SHARED,
        "critic": "--critic {reward}",
        "critic_warmup": "--critic-warmup 1",
        "critic_trunk": "--critic-trunk shared",
        "replay": "--replay 1",
        "shaping.kl_coef": "shaping.kl_coef=1",
        "shaping.kl_target": f"{LONG} | shaping.kl_target=9",
        "shaping.kl_horizon": f"{LONG} shaping.kl_target=9 | shaping.kl_horizon=10",
        "shaping.scaling": "shaping.scaling=none",
        "shaping.clip": "shaping.clip=0.01",
        "advantage.gamma": "advantage.gamma=0.5",
        "advantage.lam": "advantage.lam=0",
        "advantage.whiten": "advantage.whiten=false",
        "advantage.clip": "advantage.clip=0.01",
        "loss.cliprange": f"{LONG} | loss.cliprange=0.01",
        "loss.cliprange_value": f"{LONG} | loss.cliprange_value=0.01",
        "loss.vf_coef": "--critic-trunk shared | loss.vf_coef=1",
        "loss.entropy_coef": "loss.entropy_coef=0.1",
        "loss.entropy_clip": f"{LONG} loss.entropy_coef=0.1 | loss.entropy_clip=5",
        "loss.stop_kl": f"{LONG} | loss.stop_kl=1e-4",
        "pretraining.data": "pretraining.data={shards} pretraining.rows=1 pretraining.max_length=16",
        "pretraining.coef": "pretraining.data={shards} pretraining.rows=1 | pretraining.coef=0.1",
        "pretraining.rows": "pretraining.data={shards} pretraining.rows=1 | pretraining.rows=2",
        "pretraining.max_length": "pretraining.data={shards} pretraining.rows=1 | pretraining.max_length=16",
        **{f"critic_optimizer.{name}": seen_later(words) for name, words in OPTIMIZER.items()},
    },
    "grpo": {
        "num_generations": "--num-generations 3",
        "scale_rewards": "--scale-rewards none",
        "epsilon": "loop.epochs=3 optimizer.learning_rate=0.02 | epsilon=0.01",
        "epsilon_high": "loop.epochs=3 optimizer.learning_rate=0.02 | epsilon_high=0.01",
        "beta": "loop.epochs=3 optimizer.learning_rate=0.02 | beta=1",
        "loss_type": "rollout.max_tokens=30 num_generations=4 | loss_type=sequence",
    },
}
"""Per stage and setting, words that must change the result; those before a `|` the base run gets too."""
NO_CHANGE = {
    "rollout.max_difference": "stops a run or does nothing; tested in tests/alignment/test_rollout.py",
    "loop.per_device_train_batch_size": "saves memory and changes nothing; tested in tests/alignment/test_pupil.py",
    "loop.samples": "shown on stderr",
    "optimizer.paged": "saves memory and changes no bit; tested in tests/training/test_paged.py",
}
EXCUSED: dict[str, dict[str, str]] = {
    "ppo": {
        **dict.fromkeys(CHANGES["ppo"], "tried in tests/alignment/test_switches.py"),
        **NO_CHANGE,
        "critic_optimizer.paged": NO_CHANGE["optimizer.paged"],
    },
    "grpo": {
        **dict.fromkeys(CHANGES["grpo"], "tried in tests/alignment/test_switches.py"),
        **dict.fromkeys(SHARED, "shared with ppo; tried in tests/alignment/test_switches.py"),
        **NO_CHANGE,
    },
}
"""What tests/test_settings.py need not try."""


@pytest.fixture(scope="module")
def places(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("places")
    made = {
        "policy": write_policy(root / "policy"),
        "other": write_policy(root / "other", seed=1),
        "prompts": write_prompts(root / "prompts.jsonl"),
        "other_prompts": write_rows(
            root / "more.jsonl", [{"prompt": word, "answer": "1"} for word in "abcdef"]
        ),
        "mine": write_function(root / "mine.py"),
        "shards": workspace.shards,
        "reward": root / "reward",
    }
    torch.manual_seed(3)
    made["reward"].mkdir()
    write_model_folder(made["reward"], Classifier(tiny.llama(), 1), tiny.tokenizer())
    return made


@pytest.fixture(scope="module")
def known() -> dict[str, str]:
    """Outcomes of base runs, so that each is run once."""
    return {}


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage in CHANGES for name in CHANGES[stage]])
def test_a_setting_changes_the_result(
    stage: str,
    name: str,
    places: dict[str, Path],
    known: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    both, _, change = CHANGES[stage][name].rpartition("|")
    base = f"{stage} {BASE} {'--num-generations 2' if stage == 'grpo' else ''} {both}"
    if base not in known:
        known[base] = outcome(base, places, tmp_path_factory)
    assert outcome(f"{base} {change}", places, tmp_path_factory) != known[base]


def outcome(words: str, places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A hash of what a run leaves behind, without what a clock decided."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert main(words.format(**places, out=out).split()) == 0
    digest = hashlib.sha256()
    for line in read_log(out):
        told: dict[str, Any] = {key: value for key, value in line.items() if not key.startswith("seconds")}
        digest.update(json.dumps(told).encode())
    for path in sorted(path for path in out.rglob("*") if path.suffix in (".safetensors", ".jsonl")):
        if path.name != "log.jsonl":
            digest.update(str(path.relative_to(out)).encode() + path.read_bytes())
    return digest.hexdigest()
