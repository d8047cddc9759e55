"""The stage `fill-mask`: the same words as transformers' pipeline, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from luban.cli import main
from luban.errors import ConfigError, ModelError, PromptError
from luban.inference import fill_mask
from luban.models import hf
from luban.tokenizers.files import load as load_tokenizer
from luban.tokenizers.train import train
from luban.training.checkpoint import write_model_folder
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT over a WordPiece vocabulary, sure of itself, so that its choices differ."""
    torch.manual_seed(0)
    tokenizer = train(tiny.TEXTS, kind="wordpiece", vocab=200)
    model = tiny.bert(vocab=tokenizer.vocab_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    made = tmp_path_factory.mktemp("masked")
    write_model_folder(made, model, tokenizer)
    return made


def filled(folder: Path, *prompts: str, top_k: int = 5) -> list[dict[str, Any]]:
    return fill_mask.run(fill_mask.Config(model=folder, prompt=prompts, top_k=top_k, threads=1))["texts"]


@pytest.mark.parametrize(
    "prompt", ["the [MASK] fox", "The capital of [MASK] is Paris.", "[MASK] 1 and[MASK]!"]
)
def test_the_words_are_those_of_the_transformers_pipeline(prompt: str, folder: Path) -> None:
    pipeline = transformers.pipeline("fill-mask", model=str(folder), tokenizer=str(folder), device="cpu")
    expected: Any = pipeline(prompt, top_k=4)
    expected = expected if isinstance(expected[0], list) else [expected]
    (row,) = filled(folder, prompt, top_k=4)
    assert len(row["masks"]) == prompt.count("[MASK]") == len(expected)
    for ours, theirs in zip(row["masks"], expected, strict=True):
        assert [one["id"] for one in ours] == [one["token"] for one in theirs]
        assert [one["probability"] for one in ours] == pytest.approx(
            [one["score"] for one in theirs], abs=1e-5
        )


def test_all_tokens_together_are_certain(folder: Path) -> None:
    (row,) = filled(folder, "the [MASK] fox", top_k=10**6)
    (candidates,) = row["masks"]
    assert sum(one["probability"] for one in candidates) == pytest.approx(1, abs=1e-5)
    assert candidates == sorted(candidates, key=lambda one: -one["probability"])


def test_it_prints_a_line_for_each_mask(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fill-mask", "--model", str(folder), "--prompt", "the [MASK] fox [MASK]", "--top-k", "2"]
    assert main([*words, "--threads", "1"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "the [MASK] fox [MASK]"
    assert len(lines) == 2
    assert main([*words, "--threads", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["texts"]
    assert lines[1].split()[0] == row["masks"][1][0]["token"]


def test_a_text_without_mask_and_one_too_long_are_refused(folder: Path) -> None:
    with pytest.raises(PromptError, match=r"there is no mask in 'the fox'\n.*write \[MASK\]"):
        filled(folder, "the fox")
    with pytest.raises(PromptError, match="position 102 is beyond the 64 positions"):
        filled(folder, "[MASK]" + " 1" * 100)


def test_a_model_without_a_head_for_words_is_refused(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder)
    write_model_folder(tmp_path / "decoder", tiny.gpt2(), tokenizer)
    with pytest.raises(ConfigError, match="no head for hidden words: it is a 'gpt2'"):
        filled(tmp_path / "decoder", "the [MASK]")
    write_model_folder(tmp_path / "encoder", tiny.bert(architecture="BertModel"), tokenizer)
    with pytest.raises(ConfigError, match="no head for hidden words: it is a 'bert'"):
        filled(tmp_path / "encoder", "the [MASK]")


def test_a_tokenizer_without_mask_is_refused(tmp_path: Path) -> None:
    write_model_folder(tmp_path, tiny.bert(), tiny.tokenizer())
    with pytest.raises(ConfigError, match=r"no cls_token, sep_token and mask_token\n.*wordpiece"):
        filled(tmp_path, "the [MASK]")


def test_a_tokenizer_of_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder)
    hf.save(tiny.bert(vocab=100), tmp_path)
    tokenizer.save(tmp_path)
    with pytest.raises(ModelError, match=rf"the tokenizer has {tokenizer.vocab_size} ids and the model 100"):
        filled(tmp_path, "the [MASK]")
