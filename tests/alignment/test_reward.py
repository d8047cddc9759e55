"""The stage `reward`: it learns a planted preference, writes a model that others read, and says how good it is."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.alignment import reward
from luban.alignment.pair_batch import answers_of
from luban.alignment.pair_stage import PairLoop, PreferenceOptimizer
from luban.alignment.preferences import Limits, Pairs, read_pairs
from luban.alignment.process_rows import step_ids
from luban.alignment.reward_model import load_reward, rewards, rewards_at
from luban.alignment.rewarding import RewardingPairs, said_by_words
from luban.data.loader import Loader, Source
from luban.errors import ConfigError, ModelError, PromptError
from luban.models.classifier import Classifier
from luban.peft.opening import is_adapter
from luban.training.checkpoint import write_model_folder
from luban.training.config import ParallelConfig
from luban.training.metrics import read_log
from tests import tiny
from tests.alignment.short_answers import short_and_long, write_rows
from tests.ranks import run_ranks

LOOP = PairLoop(
    max_steps=25,
    per_device_train_batch_size=4,
    max_length=128,
    compile=False,
    logging_steps=5,
    eval_batches=4,
    save_steps=0,
)
LORA = {"method": "lora", "r": 4, "target_modules": ["q", "v", "up", "down"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    folder.mkdir()
    torch.manual_seed(0)
    write_model_folder(folder, tiny.llama(context=128), tiny.tokenizer())
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", short_and_long(120))


@pytest.fixture(scope="module")
def trained(model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of the planted preference."""
    out = tmp_path_factory.mktemp("trained") / "run"
    reward.run(config_for(model, rows, out))
    return out


def config_for(model: Path, rows: Path, out: Path, **changes: Any) -> reward.Config:
    optimizer = PreferenceOptimizer(learning_rate=3e-3, warmup_steps=2)
    told = {"optimizer": optimizer, "loop": LOOP, "threads": 1, "validation": 0.3}
    return reward.Config(model=model, data=(rows,), out=out, **(told | changes))


def some_pairs(rows: Path) -> Pairs:
    return read_pairs([rows], tiny.tokenizer(), Limits(row=128, window=128))[0]


def test_held_out_answers_come_into_the_right_order(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text("utf-8"))
    assert report["pairs"] == 36
    assert report["accuracy"] > 0.9
    assert report["accuracy_of_longer"] == 0  # the planted preference is for the shorter one
    assert read_log(trained)[0]["val/accuracy"] < report["accuracy"]
    assert (trained / "rewards.png").is_file()


def test_rewards_of_padded_rows_are_those_of_each_alone(trained: Path, rows: Path) -> None:
    model, pairs = load_reward(trained / "final"), some_pairs(rows)
    asked = [answer.ids.tolist() for pair in pairs.all[:5] for answer in (pair.first, pair.second)]
    together = rewards(model, asked)
    alone = torch.cat([rewards(model, [row]) for row in asked])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_transformers_reads_the_same_rewards(trained: Path, rows: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    oracle = AutoModelForSequenceClassification.from_pretrained(trained / "final").eval()
    asked = [pair.first.ids.tolist() for pair in some_pairs(rows).all[:3]]
    with torch.no_grad():
        expected = torch.cat([oracle(torch.tensor([row])).logits[:, 0] for row in asked])
    torch.testing.assert_close(rewards(load_reward(trained / "final"), asked), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_lora_learns_it_too_and_its_folder_rewards_as_the_merged_model_does(
    model: Path, rows: Path, tmp_path: Path
) -> None:
    loop = dataclasses.replace(LOOP, max_steps=40)
    config = config_for(model, rows, tmp_path / "run", peft=LORA, loop=loop)
    config = dataclasses.replace(config, optimizer=PreferenceOptimizer(learning_rate=1e-2, warmup_steps=2))
    results = reward.run(config)
    assert results["report"]["accuracy"] > 0.9
    assert results["trained_parameters"] < 0.3 * results["parameters"]
    merged = dataclasses.replace(config, out=tmp_path / "merged", peft={**LORA, "merge": True})
    reward.run(merged)
    assert [is_adapter(one.out / "final") for one in (config, merged)] == [True, False]
    asked = [pair.first.ids.tolist() for pair in some_pairs(rows).all[:3]]
    beside, whole = (rewards(load_reward(one.out / "final"), asked) for one in (config, merged))
    torch.testing.assert_close(beside, whole, rtol=1e-4, atol=1e-5)


def test_imitation_is_the_mean_logp_of_the_better_answers_words(rows: Path) -> None:
    torch.manual_seed(0)
    model = Classifier(tiny.llama(context=128), 1, words=True).eval()
    pairs = some_pairs(rows)
    (batch, *_) = Loader([Source(examples=pairs)], batch=2, context=128, split_documents=False, epochs=1)
    objective = RewardingPairs({"data": pairs})
    answers = answers_of(batch, pairs)
    with torch.no_grad():
        found = said_by_words(model, objective.states(model, answers.batch), answers)
        for number, told in zip(answers.pairs.tolist(), found, strict=True):
            first = pairs.all[number].first
            ids = torch.from_numpy(first.ids).long()
            logps = model.backbone(ids[None])[0].log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]
            expected = logps[torch.from_numpy(first.mask[1:])].mean()
            assert told.item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.slow
def test_with_imitation_the_head_for_words_learns_the_better_answers(
    model: Path, rows: Path, tmp_path: Path
) -> None:
    config = config_for(model, rows, tmp_path / "run", imitation=1.0)
    results = reward.run(config)
    assert results["val/logp"] > read_log(config.out)[0]["val/logp"] + 1
    assert results["report"]["accuracy"] > 0.8


def test_margin_and_centring_weigh_in_as_they_are_told(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [row | {"margin": 3} for row in short_and_long(6)])
    torch.manual_seed(0)
    model, pairs = Classifier(tiny.llama(context=128), 1), some_pairs(rows)
    (batch,) = Loader([Source(examples=pairs)], batch=6, context=128, split_documents=False, epochs=1)
    told = rewards(model, [answer.ids.tolist() for pair in pairs.all for answer in (pair.first, pair.second)])
    good, bad = told.view(-1, 2).unbind(1)
    for margin, centre in ((0.0, 0.0), (1.0, 0.0), (0.5, 2.0)):
        step = RewardingPairs({"data": pairs}, margin=margin, centre=centre)(model, batch)
        expected = torch.log1p(torch.exp(3 * margin - (good - bad))) + centre * (good + bad) ** 2
        assert step.targets == 6
        assert step.loss.item() == pytest.approx(expected.sum().item(), rel=1e-4)


def test_steps_are_judged_one_by_one(model: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    solutions = []
    for _ in range(150):
        right = [draw.random() < 0.6 for _ in range(3)]
        steps = [f"{draw.randint(2, 9)} is {'so' if fine else 'not so'}" for fine in right]
        solutions.append({"prompt": "check: ", "steps": steps, "labels": right})
    rows = write_rows(tmp_path / "rows.jsonl", solutions)
    results = reward.run(config_for(model, rows, tmp_path / "run", kind="steps"))
    assert results["report"]["accuracy"] > 0.9
    assert results["report"]["accuracy_of_commoner"] < 0.75
    scorer, tokenizer = load_reward(tmp_path / "run" / "final"), tiny.tokenizer()
    ids, ends = step_ids(tokenizer, "check: ", ["4 is so", "4 is not so"])
    ((good, bad),) = rewards_at(scorer, [ids], [ends])
    assert good > 0 > bad


def shared(config: reward.Config, out: str) -> dict[str, Any]:
    """On one of several processes: the run, told by its results."""
    return reward.run(dataclasses.replace(config, out=Path(out)))


@pytest.mark.slow
def test_two_processes_learn_what_one_does(model: Path, rows: Path, tmp_path: Path) -> None:
    alone = config_for(model, rows, tmp_path / "alone")
    told = reward.run(alone)
    half = dataclasses.replace(LOOP, per_device_train_batch_size=2)
    both = run_ranks(2, shared, dataclasses.replace(alone, loop=half), str(tmp_path / "both"))
    assert both[0]["val/loss"] == pytest.approx(told["val/loss"], abs=1e-3)
    assert both[0]["report"]["accuracy"] == told["report"]["accuracy"]


def test_a_row_longer_than_the_window_is_named(trained: Path) -> None:
    with pytest.raises(PromptError, match="row 1: it has 129 tokens, and the reward model reads 1 to 128"):
        rewards(load_reward(trained / "final"), [[5], [5] * 129])


def test_a_model_without_a_score_is_no_reward_model(model: Path) -> None:
    with pytest.raises(ModelError, match="one score, this one has no head for any"):
        load_reward(model)


def test_an_encoder_is_refused(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    write_model_folder(tmp_path / "bert", tiny.bert(), tiny.tokenizer())
    with pytest.raises(ConfigError, match="'bert' is no decoder"):
        reward.run(config_for(tmp_path / "bert", rows, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_settings_of_pairs_are_not_for_steps() -> None:
    with pytest.raises(ConfigError, match="centre is of pairs of answers"):
        reward.Config(model=Path("m"), data=(), out=Path("o"), kind="steps", centre=0.1)


def test_a_model_that_is_cut_up_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"parallel\.pp"):
        reward.Config(model=Path("m"), data=(), out=Path("o"), parallel=ParallelConfig(pp=2))
