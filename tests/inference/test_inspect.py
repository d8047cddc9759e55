"""The stage `inspect attention`: pictures and numbers for every kind of model, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luban.cli import main
from luban.errors import ModelError, PromptError
from luban.inference import inspect
from luban.models import FAMILIES, hf
from luban.models.base import Shape
from luban.tokenizers.train import train
from luban.training.checkpoint import write_model_folder
from tests import tiny

PROMPT = "The quick brown fox jumps."
PNG = b"\x89PNG\r\n\x1a\n"


def fresh(family: str, layers: int) -> Any:
    """A random tiny model of `family` over the tiny tokenizer's ids."""
    torch.manual_seed(0)
    numbers: dict[str, Any] = {"vocab": 384, "context": 64, "dim": 32, "layers": layers}
    numbers |= {"heads": 0 if family in ("mamba", "rnnsearch") else 4, "bos_id": 0, "eos_id": 0, "pad_id": 0}
    return hf.build(FAMILIES[family].config.sized(Shape(model_type=family, **numbers)))


def folder_of(family: str, place: Path, *, layers: int = 1) -> Path:
    write_model_folder(place / family, fresh(family, layers), tiny.tokenizer())
    return place / family


def inspected(folder: Path, out: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    given: dict[str, Any] = {"prompt": PROMPT}
    results = inspect.run(inspect.Config(model=folder, out=out, threads=1, **given | settings))
    with np.load(out / "maps.npz") as maps:
        return results, dict(maps)


def test_a_decoder_leaves_a_picture_and_numbers_per_layer(tmp_path: Path) -> None:
    results, maps = inspected(folder_of("llama", tmp_path, layers=2), tmp_path / "out")
    count = len(tiny.tokenizer().encode(PROMPT))
    assert results["layers"] == {"blocks.0.attention": 4, "blocks.1.attention": 4}
    for name in results["layers"]:
        assert maps[name].shape == (4, count, count)
        np.testing.assert_allclose(maps[name].sum(-1), 1, atol=1e-5)
        assert not np.triu(maps[name], 1).any()
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(PNG)
    assert tiny.tokenizer().decode(maps["blocks.0.attention.rows"].tolist()) == PROMPT


def test_an_encoder_looks_ahead_between_its_own_two_tokens(tmp_path: Path) -> None:
    tokenizer = train(tiny.TEXTS, kind="wordpiece", vocab=200)
    torch.manual_seed(0)
    write_model_folder(tmp_path / "bert", tiny.bert(vocab=tokenizer.vocab_size), tokenizer)
    _, maps = inspected(tmp_path / "bert", tmp_path / "out")
    ids = maps["blocks.0.attention.columns"].tolist()
    assert ids == [tokenizer.cls_id, *tokenizer.encode(PROMPT), tokenizer.sep_id]
    assert (maps["blocks.0.attention"] > 0).all()


@pytest.mark.parametrize("family", ["transformer", "bart", "t5"])
def test_an_encoder_decoder_shows_text_answer_and_what_joins_them(family: str, tmp_path: Path) -> None:
    results, maps = inspected(folder_of(family, tmp_path), tmp_path / "out", answer="le renard")
    source = len(tiny.tokenizer().encode(PROMPT)) + 1  # and the token that ends it
    answer = len(tiny.tokenizer().encode("le renard")) + 1  # and the one that begins it
    shapes = {maps[name].shape[1:] for name in results["layers"]}
    assert shapes == {(source, source), (answer, answer), (answer, source)}
    assert len(results["layers"]) == 3
    for name in results["layers"]:
        assert maps[name].shape[1:] == (len(maps[f"{name}.rows"]), len(maps[f"{name}.columns"]))


def test_without_an_answer_the_models_own_is_shown(tmp_path: Path) -> None:
    folder = folder_of("transformer", tmp_path)
    _, short = inspected(folder, tmp_path / "short", max_tokens=3)
    _, longer = inspected(folder, tmp_path / "longer", max_tokens=5)
    rows = [maps["blocks.0.cross.rows"].tolist() for maps in (short, longer)]
    assert rows[0] == rows[1][:4]
    assert rows[0][0] == 0


def test_additive_attention_is_drawn_too(tmp_path: Path) -> None:
    results, maps = inspected(folder_of("rnnsearch", tmp_path), tmp_path / "out", answer="le renard")
    assert results["layers"] == {"blocks.0.alignment": 1}
    np.testing.assert_allclose(maps["blocks.0.alignment"].sum(-1), 1, atol=1e-5)


def test_letters_that_the_font_lacks_are_numbers() -> None:
    tokenizer = tiny.tokenizer()
    (fox, *_) = tokenizer.encode(" fox")
    assert inspect._labels([fox], tokenizer) == [tokenizer.decode([fox]).replace(" ", "␣")]
    whole = [token for token in range(384) if tokenizer.decode([token]) == "是"]
    assert inspect._labels(whole, tokenizer) == [f"#{token}" for token in whole]


def test_the_command_says_what_it_drew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of("gpt2", tmp_path)
    words = ["inspect", "attention", "--model", str(folder), "--prompt", "The $fox_1$", "--out"]
    assert main([*words, str(tmp_path / "out"), "--threads", "1"]) == 0
    assert capsys.readouterr().out.startswith("blocks.0.attention: 4 heads over ")


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("mamba", {}, "a 'mamba' model attends to no tokens"),
        ("llama", {"prompt": ""}, "setting 'prompt': there is no token to look at"),
        ("transformer", {"prompt": ""}, "setting 'prompt': there is no token to look at"),
        ("llama", {"prompt": "1 " * 99}, "tokens, and the model reads at most 64"),
        ("transformer", {"answer": "1 " * 99}, "setting 'answer': .* at most 64"),
    ],
)
def test_what_cannot_be_drawn_is_said_and_nothing_written(
    family: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = folder_of(family, tmp_path)
    with pytest.raises((ModelError, PromptError), match=message):
        inspected(folder, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    hf.save(tiny.llama(vocab=100), tmp_path / "model")
    tiny.tokenizer().save(tmp_path / "model")
    with pytest.raises(ModelError, match="the tokenizer has 384 ids and the model 100"):
        inspected(tmp_path / "model", tmp_path / "out")
