"""Luban's sides: an iteration of PPO with either critic, one of GRPO, and answers alone."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.aligned.setting import ANSWER, CRITIC_RATE, GROUP, PROMPT, PROMPTS, RATE, ROWS
from benchmarks.tuned import turns

JUDGE = """
from benchmarks.aligned.setting import worth

def worths(rows, answers):
    return [worth(answer) for answer in answers]
"""
Work = Callable[[], int]


def words(folder: Path, out: Path, *, threads: str) -> list[str]:
    """What both stages are told."""
    return [
        *f"model={folder}/policy data={folder}/{PROMPTS} out={out} plain=true threads={threads}".split(),
        *f"rollout.max_tokens={ANSWER} loop.per_device_train_batch_size={ROWS} loop.max_steps=1000000".split(),
        *f"optimizer.learning_rate={RATE} device=cpu".split(),
    ]


def ppo(folder: Path, out: Path, *, threads: str, trunk: str) -> Work:
    """An iteration of PPO, with a reward model."""
    from luban.alignment import ppo as stage
    from luban.alignment.ppo_iteration import Iteration

    more = [f"reward={folder}/reward", f"rollout.prompts={ROWS}", f"critic_trunk={trunk}"]
    if trunk == "separate":
        more.append(f"critic_optimizer.learning_rate={CRITIC_RATE}")
    return iterated(stage, Iteration, "ppo", [*words(folder, out, threads=threads), *more])


def grpo(folder: Path, out: Path, *, threads: str) -> Work:
    """An iteration of GRPO, with a function for a reward."""
    from luban.alignment import grpo as stage
    from luban.alignment.grpo_iteration import Iteration

    (out / "judge.py").write_text(JUDGE, encoding="utf-8")
    groups = f"reward={out}/judge.py:worths rollout.prompts={ROWS // GROUP} num_generations={GROUP}"
    return iterated(stage, Iteration, "grpo", [*words(folder, out, threads=threads), *groups.split()])


def iterated(stage: Any, iteration: Any, name: str, told: list[str]) -> Work:
    """Iteration after iteration of a stage, without its checkpoints."""
    from luban import config as settings
    from luban import device
    from luban.alignment.record import Record
    from luban.alignment.rounds import prepared

    config = settings.load(stage.Config, told, where="benchmark")
    rounds = prepared(name, config, device.start(config, seed=0))
    rounds.record = Record(config.out, resumed_at=0)
    assert all(len(prompt.ids) == PROMPT for prompt in rounds.order.take(8)), (
        "the prompts' length is not theirs"
    )
    step, numbers = iteration(rounds, config), itertools.count(1)

    def work() -> int:
        figures = step(next(numbers))
        return int(figures["rollout/length"] * ROWS) + PROMPT * ROWS

    return work


def generate(folder: Path, *, threads: str) -> Work:
    """`ROWS` answers."""
    from luban import device
    from luban.alignment.prompts import read_prompts
    from luban.alignment.rollout import answer_all
    from luban.models import hf
    from luban.tokenizers.files import load

    device.start(device.DeviceConfig(device="cpu", threads=int(threads)), seed=0)
    tokenizer, policy = load(folder / "policy"), hf.load(folder / "policy")
    asked = read_prompts([folder / PROMPTS], tokenizer, window=PROMPT, plain=True)[:ROWS]

    def work() -> int:
        answers = answer_all(policy, asked, tokenizer=tokenizer, max_tokens=ANSWER)
        return sum(len(answer.tokens) for answer in answers)

    return work


def side(name: str, folder: Path, out: Path, threads: str) -> Work:
    """The work of a side."""
    if name == "luban-grpo":
        return grpo(folder, out, threads=threads)
    if name == "luban-generate":
        return generate(folder, threads=threads)
    return ppo(folder, out, threads=threads, trunk=name.removeprefix("luban-ppo-"))


if __name__ == "__main__":
    named, folder_told, out_told, threads_told, *switches = sys.argv[1:]
    made = Path(out_told) / named
    made.mkdir(parents=True)
    turns.serve(side(named, Path(folder_told), made, threads_told), cpu=turns.CPU in switches)
