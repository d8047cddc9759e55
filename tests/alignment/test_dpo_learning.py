"""DPO on a model's own answers: what a program prefers is said far more often, and little else has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.alignment import checked_pairs, dpo
from luban.alignment.pair_stage import PairLoop, PreferenceOptimizer
from luban.inference.local import LocalLM, open_lm
from luban.inference.score import score_tokens
from luban.lm import Sampling
from tests.alignment.planted import LEAST_KL, plant

LOOP = PairLoop(
    max_steps=80, per_device_train_batch_size=4, max_length=96, compile=False, save_steps=0, logging_steps=10
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted SFT model, and pairs of its own answers in `pairs`."""
    root = plant(tmp_path_factory.mktemp("planted") / "root")
    rows = [json.loads(line) for line in (root / "prompts.jsonl").read_text("utf-8").splitlines()]
    asked = root / "asked.jsonl"
    talks = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": "?"}]}
        for row in rows
    ]
    asked.write_text("".join(json.dumps(talk) + "\n" for talk in talks), encoding="utf-8")
    config = checked_pairs.Config(
        data=(asked,), out=root / "pairs", model=root / "sft" / "final", prefer="regex:^yes", samples=6,
        max_tokens=16,
    )  # fmt: skip
    told = checked_pairs.run(config, open_lm)
    assert told["property"] < 0.35
    return root


def told_of(model: Path, root: Path) -> tuple[float, float]:
    """The share of answers to held-out prompts that say yes, and the KL from the SFT model in nats an answer."""
    policy, before = (open_lm(str(folder)) for folder in (model, root / "sft" / "final"))
    lines = (root / "held-out.jsonl").read_text("utf-8").splitlines()
    asked: list[Any] = [[{"role": "user", "content": json.loads(line)["prompt"]}] for line in lines] * 4
    torch.manual_seed(7)
    answers = policy.chat(asked, Sampling(temperature=1.0, max_tokens=16))
    ids = [(policy.tokenizer.render(prompt, add_generation_prompt=True)[0], answer.tokens)
           for prompt, answer in zip(asked, answers, strict=True)]  # fmt: skip

    def logp(lm: LocalLM) -> float:
        return sum(score.total for score in score_tokens(lm.model, ids, begin=0))

    yes = sum(answer.text.startswith("yes") for answer in answers) / len(answers)
    return yes, (logp(policy) - logp(before)) / len(answers)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_answer_becomes_the_rule_with_bounded_kl(seed: int, planted: Path, tmp_path: Path) -> None:
    base = planted / "sft" / "final"
    before, _ = told_of(base, planted)
    config = dpo.Config(
        model=base,
        data=(planted / "pairs" / "pairs.jsonl",),
        out=tmp_path / "run",
        loop=LOOP,
        optimizer=PreferenceOptimizer(learning_rate=3e-4, warmup_steps=4),
        imitation=1.0,
        threads=1,
        seed=seed,
    )
    dpo.run(config)
    after, kl = told_of(config.out / "final", planted)
    print(f"yes {before:.1%} -> {after:.1%}, KL {kl:.2f} nats an answer")
    assert before < 0.3
    assert after > 0.8
    assert kl < 3 * LEAST_KL
