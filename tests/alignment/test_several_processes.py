"""PPO and GRPO on two processes: the same prompts, answers, figures and weights as on one, written once, resumed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from luban import config as settings
from luban.alignment import grpo, ppo
from luban.alignment.phases import Phases
from luban.alignment.tally import Tally
from luban.errors import ConfigError, DataError, LubanError
from luban.training.config import ParallelConfig
from luban.training.metrics import read_log
from luban.training.parallel.world import joined
from tests.alignment.models import write_function, write_policy, write_prompts, write_rows
from tests.ranks import run_ranks

STAGES: Mapping[str, Any] = {"ppo": ppo, "grpo": grpo}
BASE = (
    "model={root}/policy data={root}/prompts.jsonl validation={root}/held-out.jsonl reward={root}/mine.py:shortness"
    " out={root}/alone threads=1 seed=2 loop.max_steps=4 loop.save_steps=2 loop.epochs=2 loop.minibatch=3"
    " loop.per_device_train_batch_size=2 rollout.prompts=5 rollout.max_tokens=6"
    " optimizer.learning_rate=5e-3 optimizer.adam_epsilon=1e-3"
)
"""Five answers, three at a time, two in a pass: no process has as many as the other."""
PPO = (
    "replay=1 shaping.kl_target=0.1 shaping.kl_horizon=10 critic_optimizer.adam_epsilon=1e-3 loss.stop_kl=0.5"
    " critic_optimizer.learning_rate=1e-2"
)
WORDS = {
    "ppo": PPO,
    "ppo-lora": f"{PPO} peft.method=lora peft.r=4 peft.target_modules=q_proj,v_proj",
    "ppo-shared": "critic_trunk=shared",
    "grpo": "num_generations=3 rollout.prompts=3 loss_type=sequence beta=0.1",
}
TWO = [("ppo", 0), ("ppo-lora", 0), ("ppo-shared", 3), ("grpo", 2)]


def config_for(root: Path, words: str) -> Any:
    """The settings of one of `WORDS`, its files in `root`."""
    if not (root / "policy").is_dir():
        write_policy(root / "policy")
        write_prompts(root / "prompts.jsonl")
        write_rows(root / "held-out.jsonl", [{"prompt": word} for word in ("new", "old", "odd")])
        write_function(root / "mine.py")
    stage = STAGES[words.partition("-")[0]]
    told = f"{BASE.format(root=root)} {WORDS[words]}".split()
    return settings.load(stage.Config, told, where="two processes")


def run(config: Any) -> Any:
    """The run's results, the error it ended with, or "cut" after Ctrl-C; without a page of curves."""
    from luban.alignment import rounds

    rounds.save_page = lambda out: out
    stage: Any = ppo if isinstance(config, ppo.Config) else grpo
    try:
        return stage.run(config)
    except LubanError as error:
        return error
    except KeyboardInterrupt:
        return "cut"
    except SystemExit as ended:
        return ended.code


def on_two(config: Any, out: Path, zero: Any = 0) -> list[Any]:
    return run_ranks(2, run, dataclasses.replace(config, out=out, parallel=ParallelConfig(zero=zero)))


def rollouts(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rollouts.jsonl").read_text("utf-8").splitlines()]


def without_seconds(out: Path) -> list[dict[str, float]]:
    """The log, and nothing of it that a clock decided."""
    lines = read_log(out)
    return [{name: line[name] for name in line if not name.startswith("seconds")} for line in lines]


def weights(out: Path) -> dict[str, torch.Tensor]:
    (path,) = (out / "final").glob("*.safetensors")
    return load_file(path)


def assert_alike(one: Path, other: Path, *, exact: bool = False) -> None:
    """The same answers in the same order; figures and weights to the last bits of a sum, or to the bit."""
    ours, theirs = rollouts(one), rollouts(other)
    for name in ("step", "row", "tokens", "reward", "finished"):
        assert [row[name] for row in ours] == [row[name] for row in theirs], name
    for mine, yours in zip(without_seconds(one), without_seconds(other), strict=True):
        assert mine == (yours if exact else pytest.approx(yours, rel=2e-3, abs=2e-4))
    held, bound = weights(other), 0.0 if exact else 1.0
    for name, weight in weights(one).items():
        torch.testing.assert_close(held[name], weight, rtol=2e-3 * bound, atol=2e-4 * bound)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "zero"), TWO)
def test_two_processes_do_what_one_does(words: str, zero: int, tmp_path: Path) -> None:
    alone = config_for(tmp_path, words)
    told = run(alone)
    both = on_two(alone, tmp_path / "both", zero)
    assert len({row["row"] for row in rollouts(alone.out)[:3]}) == (1 if words == "grpo" else 3)
    assert_alike(alone.out, tmp_path / "both")
    assert both[0] == both[1]
    assert both[0]["val/reward"] == pytest.approx(told["val/reward"], abs=1e-6)
    assert json.loads((tmp_path / "both" / "run.json").read_text("utf-8"))["done"]


ENDS_THE_RUN = """
import os, pathlib, signal
mark = pathlib.Path(__file__).with_suffix(".mark")
asked = 0

def once(rows, answers):
    global asked
    asked += 1
    if asked == 4 and os.environ.get("RANK") == "1" and not mark.exists():  # 1 evaluation, then iteration 3
        mark.touch()
        os.kill(os.getpid(), signal.SIGINT)
    return [-len(answer) / 10 for answer in answers]
"""


@pytest.mark.slow
def test_a_run_that_one_process_was_told_to_end_goes_on_to_the_bit_or_in_another_layout(
    tmp_path: Path,
) -> None:
    whole = config_for(tmp_path, "ppo")
    on_two(whole, tmp_path / "whole", 2)
    (tmp_path / "once.py").write_text(ENDS_THE_RUN, encoding="utf-8")
    cut = dataclasses.replace(whole, reward=f"{tmp_path / 'once.py'}:once")
    assert on_two(cut, tmp_path / "cut", 2) == ["cut", "cut"]
    assert rollouts(tmp_path / "cut")[-1]["step"] == 3
    shutil.copytree(tmp_path / "cut", tmp_path / "as-it-was")
    assert "val/reward" in on_two(cut, tmp_path / "cut", 2)[0]
    assert_alike(tmp_path / "whole", tmp_path / "cut", exact=True)
    shutil.rmtree(tmp_path / "cut")
    (tmp_path / "as-it-was").rename(tmp_path / "cut")
    assert "val/reward" in run(
        dataclasses.replace(cut, out=tmp_path / "cut")
    )  # one process, which has no parts
    assert_alike(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_what_one_process_begins_two_that_share_the_weights_go_on_with(tmp_path: Path) -> None:
    whole = config_for(tmp_path, "ppo-shared")
    run(whole)
    begun = dataclasses.replace(whole, out=tmp_path / "begun")
    run(dataclasses.replace(begun, loop=dataclasses.replace(whole.loop, max_steps=2)))
    told = json.loads((begun.out / "run.json").read_text("utf-8"))
    told["config"]["loop"]["max_steps"] = 4
    (begun.out / "run.json").write_text(json.dumps({**told, "done": False}), encoding="utf-8")
    on_two(begun, begun.out, 3)
    assert rollouts(begun.out)[-1]["step"] == 4
    held = weights(begun.out)
    for name, weight in weights(whole.out).items():
        torch.testing.assert_close(held[name], weight, rtol=2e-3, atol=2e-4)


@pytest.mark.slow
def test_an_answer_without_a_worth_on_one_process_ends_all_and_is_told_once(tmp_path: Path) -> None:
    judge = "import os\ndef some(rows, answers):\n"
    judge += "    return [float('nan') if os.environ.get('RANK') == '1' else 1.0] * len(answers)\n"
    (tmp_path / "some.py").write_text(judge, encoding="utf-8")
    config = dataclasses.replace(
        config_for(tmp_path, "grpo"), reward=f"{tmp_path / 'some.py'}:some", validation=()
    )
    ended = on_two(config, tmp_path / "both")
    assert {type(end) for end in ended} == {DataError, int}
    assert "nan, not a finite number" in "".join(str(end) for end in ended)


def figures_of_a_rank() -> Any:
    """What a rank is told of figures that differ: of a tally, and of the clock."""
    with joined(ParallelConfig(), torch.device("cpu")) as world:
        tally, phases = Tally(), Phases(world)
        each = torch.full((1, 4), float(world.rank))
        tally.add("mine", each, torch.arange(4)[None] < 1 + 2 * world.rank)
        with phases.during("waiting"):
            time.sleep(0.2 * world.rank)
        return tally.means(world), phases.told(), phases.in_all()


@pytest.mark.slow
def test_figures_are_means_over_all_processes_and_seconds_the_slowest_one_s() -> None:
    one, other = run_ranks(2, figures_of_a_rank)
    assert one == other
    means, recent, in_all = one
    assert means == {"mine": 3 / 4}  # one 0 and three 1
    assert recent["seconds/waiting"] >= 0.2
    assert in_all["seconds/waiting"] == pytest.approx(recent["seconds/waiting"], abs=0.01)


@pytest.mark.slow
def test_torchrun_starts_the_stage_and_one_process_speaks(tmp_path: Path) -> None:
    config_for(tmp_path, "ppo")
    words = f"ppo {BASE.format(root=tmp_path)} {PPO} loop.max_steps=1 --json".split()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, "-m", "luban", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"rollout/reward"') == done.stdout.count("{") == 1
    assert done.stderr.count("step 1: new") == 1
    assert (tmp_path / "alone" / "final" / "model.safetensors").is_file()
    assert (tmp_path / "alone" / "curves.png").is_file()


def test_models_that_are_cut_up_answer_nothing(tmp_path: Path) -> None:
    config = config_for(tmp_path, "grpo")
    with pytest.raises(ConfigError, match=r"parallel\.tp.*copies"):
        dataclasses.replace(config, parallel=ParallelConfig(tp=2))


def test_one_process_shares_nothing_out(tmp_path: Path) -> None:
    config = config_for(tmp_path, "ppo")
    with pytest.raises(ConfigError, match="zero=3 shares out among copies, and dp is 1"):
        ppo.run(dataclasses.replace(config, parallel=ParallelConfig(zero=3)))
    assert not config.out.exists()
