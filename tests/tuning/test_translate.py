"""The stage `translate`: it learns to rewrite, is measured on pairs it never saw, and refuses what cannot work."""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

from luban.cli import main
from luban.errors import ConfigError, DataError, MachineError, PromptError
from luban.inference.local import LocalLM, open_lm
from luban.lm import Sampling
from luban.models import hf
from luban.training.metrics import read_log
from luban.tuning import translate
from tests.conftest import Workspace

WORDS = ["red", "green", "blue", "cat", "dog", "bird", "runs", "sleeps", "eats", "the", "big", "small"]


def write_pairs(path: Path, count: int, seed: int) -> Path:
    """Sentences of a toy language, to be said backwards and loudly."""
    draw = random.Random(seed)
    sentences = [draw.choices(WORDS, k=draw.randint(2, 4)) for _ in range(count)]
    rows = [{"source": " ".join(words), "target": " ".join(words[::-1]).upper()} for words in sentences]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config_for(tmp_path: Path, **changes: Any) -> translate.Config:
    config = translate.Config(
        data=(write_pairs(tmp_path / "pairs.jsonl", 400, seed=1),),
        validation=(write_pairs(tmp_path / "held-out.jsonl", 16, seed=2),),
        out=tmp_path / "run",
        vocab=300,
        architecture=translate.TranslatorShape(layers=1, dim=32),
        optimizer=translate.TranslatorOptimizer(learning_rate=1e-2, warmup_steps=50),
        loop=translate.TranslatorLoop(max_steps=2, max_length=24, save_steps=0),
        bleu_pairs=4,
        threads=1,
    )
    return dataclasses.replace(config, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "steps"), [("transformer", 300), ("rnnsearch", 150)])
def test_a_model_learns_a_toy_language_that_copying_does_not_speak(
    family: str, steps: int, tmp_path: Path
) -> None:
    loop = translate.TranslatorLoop(max_steps=steps, max_length=24, save_steps=0)
    held_out = write_pairs(tmp_path / "more.jsonl", 40, seed=2)
    config = config_for(tmp_path, model=Path(family), loop=loop, bleu_pairs=20, validation=(held_out,))
    results = translate.run(config, open_lm)
    log = read_log(config.out)
    assert log[-1]["val/loss"] < log[0]["val/loss"] / 4
    bleu = results["bleu"]
    assert bleu["copy"] < 5 < 40 < bleu["greedy"]
    assert bleu["beam 4"] > bleu["greedy"] - 10


@pytest.mark.slow
def test_a_run_leaves_a_folder_that_translates_and_what_it_translated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(tmp_path)
    results = translate.run(config, open_lm)
    assert results["pairs"] == 400
    assert hf.load_config(config.out / "final").model_type == "transformer"
    lines = (config.out / translate.TRANSLATIONS).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == results["bleu"]["pairs"] == 4
    references = [row["target"] for row in rows]
    for name in ("copy", "greedy", "beam 4"):
        texts = [row[name] for row in rows]
        score = sacrebleu.corpus_bleu(texts, [references]).score
        assert results["bleu"][name] == pytest.approx(score, abs=0.01)
    words = f"generate --model {config.out / 'final'} --prompt {WORDS[0]} --max-tokens 4 --threads 1 --json"
    capsys.readouterr()
    assert main([*words.split(), "--beams", "4"]) == 0
    told = json.loads(capsys.readouterr().out)
    (row,) = open_lm(str(config.out / "final")).generate([WORDS[0]], Sampling(beams=4, max_tokens=4))
    assert (told["generations"][0]["text"], told["continues"]) == (row.text, False)
    assert told["generations"][0]["prompt_tokens"] > 1


def test_training_goes_on_from_a_folder_with_its_tokenizer(tmp_path: Path) -> None:
    first = config_for(tmp_path, bleu_pairs=0)
    translate.run(first, open_lm)
    second = dataclasses.replace(first, model=first.out / "final", out=tmp_path / "more")
    translate.run(second, open_lm)
    before, after = read_log(first.out)[-1], read_log(second.out)[0]
    assert after["val/loss"] == pytest.approx(before["val/loss"], abs=1e-5)


def test_held_out_sources_of_the_training_data_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(tmp_path)
    lines = config.data[0].read_text("utf-8").splitlines()[:3]
    with config.validation[0].open("a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
    known = {json.loads(line)["source"] for line in config.data[0].read_text("utf-8").splitlines()}
    held = [json.loads(line)["source"] for line in config.validation[0].read_text("utf-8").splitlines()]
    translate.run(dataclasses.replace(config, bleu_pairs=100, beams=2), open_lm)
    told = [
        json.loads(line) for line in (config.out / translate.TRANSLATIONS).read_text("utf-8").splitlines()
    ]
    assert [row["source"] for row in told] == [source for source in held if source not in known]
    assert f"{sum(source in known for source in held)} held-out sources" in capsys.readouterr().err


def test_nothing_but_known_held_out_sources_is_refused(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    with pytest.raises(DataError, match="every held-out source is in the training data"):
        translate.run(dataclasses.replace(config, validation=config.data), open_lm)
    assert not config.out.exists()


def test_a_decoder_alone_is_refused_with_the_families_that_fit(tmp_path: Path, workspace: Workspace) -> None:
    for model in (Path("gpt2"), workspace.model):
        with pytest.raises(ConfigError, match=r"is no encoder-decoder; choose from: .*transformer"):
            translate.run(config_for(tmp_path, model=model), open_lm)


def test_a_tokenizer_beside_a_model_folder_is_refused(tmp_path: Path, workspace: Workspace) -> None:
    config = config_for(tmp_path, model=workspace.model, tokenizer=workspace.tokenizer)
    with pytest.raises(ConfigError, match="'tokenizer': a model folder has its own"):
        translate.run(config, open_lm)


def test_without_sacrebleu_it_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MachineError, match=r"pip install 'luban\[eval\]'"):
        translate.run(config_for(tmp_path), open_lm)


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> LocalLM:
    config = config_for(tmp_path_factory.mktemp("translator"), bleu_pairs=0)
    translate.run(config, open_lm)
    return open_lm(str(config.out / "final"))


@pytest.mark.parametrize("beams", [1, 3])
def test_sources_translated_together_are_as_translated_alone(translator: LocalLM, beams: int) -> None:
    sampling = Sampling(temperature=0, beams=beams, max_tokens=6)
    sources = ["red", "the big cat sleeps", "blue dog"]
    together = translator.generate(sources, sampling)
    assert together == [translator.generate([source], sampling)[0] for source in sources]


def test_a_source_longer_than_the_encoder_reads_is_refused_with_both_numbers(translator: LocalLM) -> None:
    with pytest.raises(PromptError, match=r"the prompt has \d+ tokens, and the model reads at most 24"):
        translator.generate(["cat " * 40], Sampling())


def test_a_translator_says_that_it_cannot_score(translator: LocalLM) -> None:
    with pytest.raises(PromptError, match="'transformer' model cannot say how likely a text is"):
        translator.score([("a", "b")])
