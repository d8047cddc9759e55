"""`luban pretrain --model ngram`: counts over shards, a folder that everything else reads, settings that make sense."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import pytest

from luban.data.shards import TokenShards
from luban.data.sources import read_documents
from luban.errors import ConfigError, ModelError
from luban.evaluation.baselines import baseline_bits
from luban.evaluation.bits import model_bits
from luban.folder import AlreadyDone, read_json
from luban.inference.local import open_lm
from luban.models import hf
from luban.models.ngram import NgramLM
from luban.ngram.settings import Estimator
from luban.tokenizers.files import load
from luban.training import plan, pretrain
from luban.training.architecture import ArchitectureConfig
from luban.training.config import LoopConfig
from luban.training.counting import CountingConfig
from luban.training.metrics import read_log
from luban.tuning import vocabulary
from tests.conftest import Workspace

KINDS_OF_WORDS: tuple[Literal["tokens", "numbers"], ...] = ("tokens", "numbers")
LOOP = LoopConfig(per_device_train_batch_size=4, max_length=64, eval_batches=50)


def config_for(workspace: Workspace, out: Path, **changes: Any) -> pretrain.Config:
    config = pretrain.Config(
        data=(workspace.shards,),
        tokenizer=workspace.tokenizer,
        validation=workspace.held_out,
        model=Path("ngram"),
        out=out,
        loop=LOOP,
        threads=1,
    )
    return dataclasses.replace(config, **changes)


def test_counting_leaves_a_model_that_speaks_and_can_be_evaluated(
    workspace: Workspace, tmp_path: Path
) -> None:
    config = config_for(
        workspace, tmp_path / "run", architecture=ArchitectureConfig(context=10**6), prompts=("In the",)
    )
    results = pretrain.run(config, open_lm)
    shards = TokenShards.open(workspace.shards)
    assert results["tokens"] == shards.targets
    assert results["val/bpb"] < 0.75 * math.log2(384) * shards.targets / shards.bytes
    assert read_log(config.out)[-1]["val/bpb"] == results["val/bpb"]
    assert "In the" in (config.out / "samples.jsonl").read_text()
    assert read_json(config.out / "run.json")["metrics"] == results
    assert not (config.out / "counting").exists()
    held_out = list(read_documents([workspace.documents], holdout=True))
    lm = open_lm(str(config.out / "final"))
    beside = baseline_bits(load(workspace.tokenizer), list(read_documents([workspace.documents])), held_out)
    assert model_bits(lm, held_out).per_byte == pytest.approx(beside["5-gram"].per_byte, rel=1e-5)
    assert beside["5-gram"].per_byte < beside["bigram"].per_byte
    with pytest.raises(AlreadyDone):
        pretrain.run(config, open_lm)


def test_the_n_grams_are_those_of_the_shards(workspace: Workspace, tmp_path: Path) -> None:
    counting = CountingConfig(order=3, estimator="maximum-likelihood", memory_mb=1)
    pretrain.run(config_for(workspace, tmp_path / "run", counting=counting), open_lm)
    model = hf.load(tmp_path / "run" / "final")
    assert isinstance(model, NgramLM)
    seen: set[tuple[int, ...]] = set()
    for text in TokenShards.open(workspace.shards):
        symbols = [384, *text[1:].tolist()]
        seen |= {tuple(symbols[at - 3 : at]) for at in range(3, len(symbols) + 1)}
    assert {tuple(ids) for ids in model.table().grams()[2].ids.tolist()} == seen


def test_smoothing_matters_in_the_known_order(workspace: Workspace, tmp_path: Path) -> None:
    estimators: tuple[Estimator, ...] = ("kneser-ney", "katz", "add-k", "maximum-likelihood")
    found = []
    for estimator in estimators:
        counting = CountingConfig(order=3, estimator=estimator)
        config = config_for(workspace, tmp_path / estimator, counting=counting)
        found.append(pretrain.run(config, open_lm)["val/bpb"])
    assert found == sorted(found)
    assert found[1] < found[2] - 0.2


def test_an_arpa_file_of_the_tokens_is_the_model(workspace: Workspace, tmp_path: Path) -> None:
    for words in KINDS_OF_WORDS:
        counting = CountingConfig(order=2, arpa=True, words=words)
        counted = pretrain.run(config_for(workspace, tmp_path / words, counting=counting), open_lm)
        path = tmp_path / words / "final" / "model.arpa"
        assert ("Ġthe" in path.read_text(encoding="utf-8")) == (words == "tokens")
        counting = CountingConfig(from_arpa=path, words=words)
        read = pretrain.run(config_for(workspace, tmp_path / f"{words}-again", counting=counting), open_lm)
        assert read["val/bpb"] == pytest.approx(counted["val/bpb"], rel=1e-5)
        assert read["ngrams"] == counted["ngrams"]
        assert hf.load_config(tmp_path / f"{words}-again" / "final").estimator == "other"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weights": (1.0,)}, "'weights': .* no meaning"),
        ({"loop": dataclasses.replace(LOOP, max_steps=5)}, r"'loop\.max_steps': 5 has no meaning"),
    ],
)
def test_settings_that_mean_nothing_to_counting_are_refused(
    workspace: Workspace, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        pretrain.run(config_for(workspace, tmp_path / "run", **change), open_lm)
    assert not (tmp_path / "run").exists()


def test_a_counted_model_is_not_gone_on_from(workspace: Workspace, tmp_path: Path) -> None:
    config = config_for(workspace, tmp_path / "run", counting=CountingConfig(order=1))
    pretrain.run(config, open_lm)
    again = dataclasses.replace(config, model=tmp_path / "run" / "final", out=tmp_path / "again")
    with pytest.raises(ConfigError, match=r"'model': .* no meaning"):
        pretrain.run(again, open_lm)


def test_what_needs_a_trained_model_says_so(workspace: Workspace, tmp_path: Path) -> None:
    config = config_for(workspace, tmp_path / "run", counting=CountingConfig(order=2))
    pretrain.run(config, open_lm)
    with pytest.raises(ConfigError, match="'ngram' is counted, not trained"):
        plan.run(plan.Config(model=tmp_path / "run" / "final"))
    with pytest.raises(ConfigError, match="'ngram' is counted, not trained"):
        plan.run(plan.Config(architecture=ArchitectureConfig(model_type="ngram")))
    new_words = vocabulary.Config(model=tmp_path / "run" / "final", out=tmp_path / "more", add=("Luban",))
    with pytest.raises(ModelError, match="no rows for new tokens"):
        vocabulary.run(new_words)
