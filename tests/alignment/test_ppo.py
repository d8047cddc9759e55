"""The stage `ppo` as a whole: it learns what is rewarded, goes on exactly, and leaves what it says it leaves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luban import folder
from luban.alignment import ppo
from luban.alignment.config import PolicyOptimizer, RolloutConfig, RoundsConfig
from luban.alignment.ppo_config import ShapingConfig
from luban.alignment.ppo_iteration import Iteration
from luban.alignment.rounds import prepared
from luban.device import seed_all
from luban.errors import ConfigError, DataError, ModelError, TrainingError
from luban.folder import AlreadyDone, read_json
from luban.models import hf
from luban.models.classifier import Classifier
from luban.peft.opening import open_model
from luban.tokenizers.files import load
from luban.training.checkpoint import write_model_folder
from luban.training.metrics import read_log
from tests import tiny
from tests.alignment.models import write_function, write_policy, write_prompts, write_rows

LORA = {"method": "lora", "r": 4, "target_modules": "q_proj,v_proj"}


def config_for(folder: Path, **changes: Any) -> ppo.Config:
    """A run of a few quick iterations whose reward is shortness."""
    if not (folder / "policy").is_dir():
        write_policy(folder / "policy")
    write_prompts(folder / "prompts.jsonl")
    told = ppo.Config(
        model=folder / "policy",
        data=(folder / "prompts.jsonl",),
        reward=f"{write_function(folder / 'mine.py')}:shortness",
        out=folder / "run",
        rollout=RolloutConfig(prompts=4, max_tokens=6),
        loop=RoundsConfig(max_steps=3, save_steps=0),
        optimizer=PolicyOptimizer(learning_rate=1e-3),
        threads=1,
    )
    return dataclasses.replace(told, **changes)


def final_weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(hf.load(out / "final").named_parameters())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_leaves_a_model_a_log_all_answers_and_a_page_of_curves(tmp_path: Path) -> None:
    config = config_for(tmp_path, validation=(write_rows(tmp_path / "held.jsonl", [{"prompt": "new"}]),))
    results = ppo.run(config)
    assert load(config.out / "final").vocabulary() == tiny.tokenizer().vocabulary()
    assert not same(final_weights(config.out), dict(hf.load(config.model).named_parameters()))
    log = read_log(config.out)
    assert [line["step"] for line in log if "val/reward" in line] == [0, 3]
    wanted = ("rollout/reward", "rollout/kl", "rollout/entropy", "rollout/length", "rollout/perplexity",
              "rollout/reference_perplexity", "rollout/finished", "rollout/difference", "policy/clipped",
              "policy/moved", "policy/loss", "value/loss", "value/clipped", "value/explained", "kl/coef",
              "seconds/answering", "seconds/scoring", "seconds/reading", "seconds/learning")  # fmt: skip
    (last,) = (line for line in log if line["step"] == 3 and "rollout/reward" in line)
    assert set(wanted) <= set(last)
    rows = [json.loads(line) for line in (config.out / "rollouts.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows] == [1] * 4 + [2] * 4 + [3] * 4
    assert len({row["row"] for row in rows[:8]}) == 8  # of eight prompts none twice
    assert all(len(row["tokens"]) == len(row["logps"]) for row in rows)
    assert (config.out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert results["val/reward"] == log[-1]["val/reward"]
    assert read_json(config.out / "run.json")["done"]
    with pytest.raises(AlreadyDone):
        ppo.run(config)


@pytest.mark.usefixtures("no_page")
def test_the_first_iteration_begins_at_the_reference(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    ppo.run(config)
    first = read_log(config.out)[0]
    assert first["rollout/kl"] == 0
    assert first["policy/moved"] == pytest.approx(0, abs=1e-6)
    assert first["rollout/difference_max"] < 1e-4


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(
    "peft", [pytest.param({}, id="whole"), pytest.param(LORA, id="lora", marks=pytest.mark.slow)]
)
def test_a_run_that_was_cut_goes_on_to_the_bit(tmp_path: Path, peft: dict[str, Any]) -> None:
    shaping = ShapingConfig(kl_target=0.1, kl_horizon=10)
    more: dict[str, Any] = {"peft": peft, "replay": 1, "shaping": shaping}
    loop = RoundsConfig(max_steps=4, save_steps=2, epochs=2, minibatch=3)
    whole = config_for(tmp_path, out=tmp_path / "whole", loop=loop, **more)
    ppo.run(whole)
    cut = dataclasses.replace(whole, out=tmp_path / "cut")
    seed_all(cut.seed)
    iteration = Iteration(prepared("ppo", cut, torch.device("cpu")), cut)

    def dies_in_the_fourth(step: int) -> dict[str, float]:
        if step == 4:
            iteration.rounds.answered(step, prompts=4)  # recorded, and then lost
            raise MemoryError
        return iteration(step)

    folder.claim(cut.out, stage="ppo", config=cut, inputs=cut.inputs)
    with pytest.raises(MemoryError):
        iteration.rounds.run(dies_in_the_fourth, learning=iteration.learning, kept=iteration.kept())
    ppo.run(cut)
    assert (cut.out / "rollouts.jsonl").read_text("utf-8") == (whole.out / "rollouts.jsonl").read_text(
        "utf-8"
    )
    figures = [
        [{name: value for name, value in line.items() if "seconds" not in name} for line in read_log(out)]
        for out in (whole.out, cut.out)
    ]
    assert figures[0] == figures[1]
    ended = [dict(open_model(out / "final").named_parameters()) for out in (whole.out, cut.out)]
    assert same(*ended)


ENDS_THE_RUN = """
import os, pathlib, signal
mark = pathlib.Path(__file__).with_suffix(".mark")

def once(rows, answers):
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGINT)
    return [-len(answer) / 10 for answer in answers]
"""


@pytest.mark.usefixtures("no_page")
def test_ctrl_c_saves_after_the_iteration_and_the_same_command_ends_as_if_nothing_had_been(
    tmp_path: Path,
) -> None:
    whole = config_for(tmp_path, out=tmp_path / "whole")
    ppo.run(whole)
    (tmp_path / "once.py").write_text(ENDS_THE_RUN, encoding="utf-8")
    cut = config_for(tmp_path, reward=f"{tmp_path / 'once.py'}:once")
    with pytest.raises(KeyboardInterrupt):
        ppo.run(cut)
    assert len((cut.out / "rollouts.jsonl").read_text("utf-8").splitlines()) == 4
    ppo.run(cut)
    assert (cut.out / "rollouts.jsonl").read_text("utf-8") == (whole.out / "rollouts.jsonl").read_text(
        "utf-8"
    )
    assert same(final_weights(cut.out), final_weights(whole.out))


def test_with_an_adapter_the_reference_is_the_policy_without_it(tmp_path: Path) -> None:
    config = config_for(tmp_path, peft=LORA)
    rounds = prepared("ppo", config, torch.device("cpu"))
    iteration = Iteration(rounds, config)
    tokens = torch.tensor([[1, 2, 3]])
    base = hf.load(config.model)
    with torch.no_grad():
        for name, weight in rounds.policy.named_parameters():
            if "attached" in name:
                weight += 0.1
        assert not torch.equal(rounds.policy(tokens), base(tokens))
        with iteration.reference() as before:
            assert before is rounds.policy
            torch.testing.assert_close(before(tokens), base(tokens))


@pytest.mark.usefixtures("no_page")
def test_an_adapter_s_run_trains_only_the_adapter_and_writes_its_folder(tmp_path: Path) -> None:
    config = config_for(tmp_path, peft=LORA)
    ppo.run(config)
    assert {path.name for path in (config.out / "final").iterdir()} >= {
        "adapter_config.json",
        "tokenizer.json",
    }
    tuned = open_model(config.out / "final")
    tokens = torch.tensor([[1, 2, 3]])
    assert not torch.equal(tuned(tokens), hf.load(config.model)(tokens))


@pytest.mark.usefixtures("no_page")
def test_the_critic_begins_as_the_reward_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write_model_folder_of_reward(tmp_path / "reward")
    config = config_for(tmp_path, reward=str(tmp_path / "reward"))
    iteration = Iteration(prepared("ppo", config, torch.device("cpu")), config)
    judge: Any = iteration.rounds.judge
    assert iteration.critic_model is not judge.model
    assert torch.equal(iteration.critic_model.score.weight, judge.model.score.weight)
    ppo.run(config)
    assert not torch.equal(iteration.critic_model.score.weight, torch.zeros(1))


def write_model_folder_of_reward(folder: Path) -> None:
    folder.mkdir()
    write_model_folder(folder, Classifier(tiny.llama(), 1), tiny.tokenizer())


@pytest.mark.usefixtures("no_page")
def test_in_its_warm_up_only_the_critic_learns(tmp_path: Path) -> None:
    config = config_for(tmp_path, critic_warmup=3)
    ppo.run(config)
    assert same(final_weights(config.out), dict(hf.load(config.model).named_parameters()))
    losses = [line["value/loss"] for line in read_log(config.out) if "value/loss" in line]
    assert len(losses) == 3


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        (
            {"rollout": RolloutConfig(max_tokens=50)},
            DataError,
            r"prompts\.jsonl:\d: the prompt has \d+ tokens",
        ),
        ({"reward": "verify:regex"}, DataError, r"prompts\.jsonl:1: the row has no 'regex'"),
        ({"reward": "nobody"}, ConfigError, "nothing that judges"),
        ({"peft": {"method": "lor"}}, ConfigError, "did you mean 'lora'"),
        ({"model": Path("nowhere")}, (ModelError, ConfigError, DataError), "nowhere"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], error: Any, told: str
) -> None:
    config = config_for(tmp_path, **changes)
    with pytest.raises(error, match=told):
        ppo.run(config)
    assert not config.out.exists()


@pytest.mark.usefixtures("no_page")
def test_an_adapter_s_folder_is_no_start(tmp_path: Path) -> None:
    config = config_for(tmp_path, peft=LORA)
    ppo.run(config)
    with pytest.raises(ConfigError, match="which of the two would the reference be"):
        ppo.run(dataclasses.replace(config, model=config.out / "final", out=tmp_path / "next"))


def test_a_policy_that_broke_ends_the_run_and_says_where(tmp_path: Path) -> None:
    config = config_for(tmp_path, optimizer=PolicyOptimizer(learning_rate=1e30))
    with pytest.raises(
        TrainingError, match=r"prompts\.jsonl:\d: the policy is broken: its states are not finite"
    ):
        ppo.run(config)
    assert not (config.out / "final").exists()


@pytest.mark.usefixtures("no_page")
def test_all_answers_masked_teach_nothing_and_the_run_goes_on(tmp_path: Path) -> None:
    rollout = RolloutConfig(prompts=2, max_tokens=1, truncated="mask")
    config = config_for(tmp_path, rollout=rollout)
    ppo.run(config)
    steps = [line["policy/steps"] for line in read_log(config.out)]
    assert 0 in steps
