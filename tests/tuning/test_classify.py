"""The stage `classify` and its `apply`: what is learnt and reported, alike however it is run, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from luban.cli import main
from luban.errors import ConfigError, DataError, LubanError
from luban.folder import read_json
from luban.inference.local import open_lm
from luban.models import hf
from luban.models.bert import BertConfig
from luban.peft.opening import is_adapter
from luban.tokenizers.train import train
from luban.training.best import Best
from luban.training.checkpoint import write_model_folder
from luban.training.config import ParallelConfig
from luban.training.loop import Fit
from luban.training.metrics import read_log
from luban.tuning import classify, classify_apply
from luban.tuning.classify import ClassifyLoop, ClassifyOptimizer
from luban.tuning.labelled import Columns
from tests import tiny
from tests.ranks import run_ranks

GOOD, BAD = (
    ["tools", "builder", "capital", "fox", "quick", "lazy"],
    ["Paris", "numbers", "tabs", "lines", "brown", "dog"],
)
FILLERS = ["the", "and", "is", "of", "in", "his", "own"]
LOOP = ClassifyLoop(
    max_steps=40,
    per_device_train_batch_size=16,
    max_length=48,
    compile=False,
    logging_steps=5,
    save_steps=0,
    eval_batches=8,
)


def sentence(draw: random.Random, words: list[str]) -> str:
    made = [draw.choice(words), *(draw.choice(FILLERS) for _ in range(draw.randint(2, 9)))]
    draw.shuffle(made)
    return " ".join(made)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def moods(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts with one good or bad word among fillers."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        good = number % 2 == 0
        rows.append({"text": sentence(draw, GOOD if good else BAD), "label": "good" if good else "bad"})
    return rows


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models, one of each side, and labelled texts."""
    root = tmp_path_factory.mktemp("classify")
    torch.manual_seed(0)
    write_model_folder(root / "llama", tiny.llama(), tiny.tokenizer())
    pieces = train([*tiny.TEXTS, *(row["text"] for row in moods(50))] * 2, kind="wordpiece", vocab=200)
    bert = hf.build(
        BertConfig(vocab=200, dim=32, layers=2, heads=4, context=64, architecture="BertForMaskedLM")
    )
    write_model_folder(root / "bert", bert, pieces)
    return {"llama": root / "llama", "bert": root / "bert", "rows": write(root / "rows.jsonl", moods(300))}


def config_for(places: dict[str, Path], out: Path, **changes: Any) -> classify.Config:
    optimizer = ClassifyOptimizer(learning_rate=5e-3, warmup_steps=2)
    config = classify.Config(
        model=places["llama"], data=(places["rows"],), out=out, loop=LOOP, optimizer=optimizer, threads=1
    )
    return dataclasses.replace(config, **changes)


def looping(**changes: Any) -> ClassifyLoop:
    return dataclasses.replace(LOOP, **changes)


@pytest.mark.parametrize("packing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_decoder_learns_and_the_report_says_so(
    packing: bool, places: dict[str, Path], tmp_path: Path
) -> None:
    results = classify.run(config_for(places, tmp_path / "run", packing=packing))
    assert results["test"]["accuracy"] > 0.9  # by chance 0.5
    assert (results["train_rows"], results["validation_rows"], results["test_rows"]) == (
        results["train_rows"],
        30,
        30,
    )
    report = read_json(tmp_path / "run" / "report.json")
    assert report["model"]["accuracy"] == pytest.approx(results["test"]["accuracy"], abs=1e-4)
    assert report["baseline"]["accuracy"] > 0.9
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    right = sum(line["is"] == line["label"] for line in lines) / len(lines)
    assert right == pytest.approx(report["model"]["accuracy"])
    log = read_log(tmp_path / "run")
    assert log[0]["val/accuracy"] < log[-1]["val/accuracy"]
    assert {"report.md", "report.png", "curves.png", "final"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }


@pytest.mark.slow
def test_an_encoder_without_pooler_gets_one_and_learns(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = classify.run(config_for(places, tmp_path / "run", model=places["bert"]))
    assert "the encoder has no pooler; a new one is learnt with the head" in capsys.readouterr().err
    assert results["test"]["accuracy"] > 0.9


@pytest.mark.slow
def test_what_is_written_transformers_reads_with_the_same_probabilities(
    places: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("llama", "bert"):
        out = tmp_path / name
        classify.run(config_for(places, out, model=places[name], loop=looping(max_steps=8), baseline=False))
        tokenizer = transformers.AutoTokenizer.from_pretrained(out / "final")
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(out / "final").eval()
        assert theirs.config.id2label == {0: "bad", 1: "good"}
        for line in (out / "predictions.jsonl").read_text("utf-8").splitlines()[:5]:
            row = json.loads(line)
            with torch.no_grad():
                chances = theirs(**tokenizer(row["text"], return_tensors="pt")).logits.softmax(1)[0]
            assert chances.tolist() == pytest.approx(list(row["probabilities"].values()), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_pairs_are_told_apart_by_which_text_is_which(
    name: str, places: dict[str, Path], tmp_path: Path
) -> None:
    draw, rows = random.Random(0), []
    for number in range(400):
        better_first = number % 2 == 0
        texts = [sentence(draw, GOOD), sentence(draw, BAD)]
        one, two = texts if better_first else texts[::-1]
        rows.append({"a": one, "b": two, "better": int(not better_first)})
    pairs = write(tmp_path / "pairs.jsonl", rows)
    columns = Columns(text="a", second="b", label="better")
    config = config_for(
        places, tmp_path / "run", model=places[name], data=(pairs,), columns=columns, packing=True
    )
    results = classify.run(
        dataclasses.replace(config, loop=looping(max_steps=80, per_device_train_batch_size=8))
    )
    assert results["test"]["accuracy"] > 0.85  # without order 0.5


@pytest.mark.slow
def test_several_labels_are_learnt_at_once(places: dict[str, Path], tmp_path: Path) -> None:
    draw, rows = random.Random(0), []
    for number in range(400):
        words = (["good"] if number & 1 else []) + (["bad"] if number & 2 else [])
        text = " ".join(
            [sentence(draw, FILLERS), *(draw.choice(GOOD if w == "good" else BAD) for w in words)]
        )
        rows.append({"text": text, "labels": words})
    data = write(tmp_path / "rows.jsonl", rows)
    config = config_for(places, tmp_path / "run", data=(data,), multi_label=True, loop=looping(max_steps=60))
    results = classify.run(config)
    assert results["test"]["accuracy"] > 0.9  # both labels right; by chance 0.25
    assert hf.load_config(config.out / "final").problem == "multi_label_classification"
    (last,) = (config.out / "predictions.jsonl").read_text("utf-8").splitlines()[-1:]
    assert isinstance(json.loads(last)["label"], list)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of a model folder, without heads."""
    held = load_file(folder / "model.safetensors")
    return {name: value for name, value in held.items() if name not in ("lm_head.weight", "score.weight")}


@pytest.mark.slow
def test_a_frozen_model_is_left_as_it_was_and_its_head_learns(
    places: dict[str, Path], tmp_path: Path
) -> None:
    draw = random.Random(
        0
    )  # the telling word comes last, where even a model that has learnt nothing knows it
    texts = [("good", GOOD), ("bad", BAD)] * 100
    rows = [{"text": f"{sentence(draw, FILLERS)} {draw.choice(words)}", "label": is_} for is_, words in texts]
    data = write(tmp_path / "rows.jsonl", rows)
    optimizer = ClassifyOptimizer(learning_rate=0.03, warmup_steps=0)
    config = config_for(
        places, tmp_path / "run", frozen=True, data=(data,), optimizer=optimizer, baseline=False
    )
    assert classify.run(config)["test"]["accuracy"] > 0.9
    base, tuned = weights(places["llama"]), weights(config.out / "final")
    assert base.keys() == tuned.keys()
    assert all(torch.equal(value, tuned[name]) for name, value in base.items())


@pytest.mark.slow
def test_an_adapters_folder_has_the_head_and_classifies_as_the_merged_model_does(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peft = {"method": "lora", "r": 4, "target_modules": "q_proj,v_proj"}
    optimizer = ClassifyOptimizer(learning_rate=0.02, warmup_steps=2)
    config = config_for(places, tmp_path / "run", peft=peft, loop=looping(max_steps=80), optimizer=optimizer)
    results = classify.run(config)
    counted = 2 * 4 * (32 + 32 + 32 + 16) + 2 * 32  # two layers' queries and values, and the head
    assert f"lora trains {counted} weights" in capsys.readouterr().err
    assert results["test"]["accuracy"] > 0.8
    final = config.out / "final"
    assert is_adapter(final)
    lines = [json.loads(line) for line in (config.out / "predictions.jsonl").read_text("utf-8").splitlines()]
    asked = classify_apply.Config(model=final, text=tuple(line["text"] for line in lines), threads=1)
    told = classify_apply.run(asked)["predictions"]
    merged = dataclasses.replace(config, out=tmp_path / "merged", peft={**peft, "merge": True})
    assert classify.run(merged)["test"] == results["test"]
    again = classify_apply.run(dataclasses.replace(asked, model=merged.out / "final"))["predictions"]
    for line, one, other in zip(lines, told, again, strict=True):
        assert one["probabilities"] == pytest.approx(line["probabilities"], abs=2e-6)
        assert other["probabilities"] == pytest.approx(line["probabilities"], abs=1e-5)
    base, tuned = weights(places["llama"]), weights(merged.out / "final")
    changed = {name.split(".", 3)[-1] for name, value in base.items() if not torch.equal(value, tuned[name])}
    assert changed == {"self_attn.q_proj.weight", "self_attn.v_proj.weight"}


@pytest.mark.slow
@pytest.mark.parametrize("peft", [{}, {"method": "lora", "r": 2}])
def test_an_interrupted_run_ends_as_one_that_was_not(
    peft: dict[str, Any], places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = looping(max_steps=8, save_steps=4, metric_for_best="val/macro_f1", eval_steps=4)
    whole = config_for(places, tmp_path / "whole", loop=loop, peft=peft, packing=True, baseline=False)
    classify.run(whole)
    cut = dataclasses.replace(whole, out=tmp_path / "cut")
    advance = Fit._advance

    def ends_at_6(self: Fit, step: int, batches: Any) -> None:
        if step == 6:
            raise KeyboardInterrupt
        advance(self, step, batches)

    monkeypatch.setattr(Fit, "_advance", ends_at_6)
    with pytest.raises(KeyboardInterrupt):
        classify.run(cut)
    monkeypatch.setattr(Fit, "_advance", advance)
    classify.run(cut)
    written = "final/adapter_model.safetensors" if peft else "final/model.safetensors"
    for name in (written, "predictions.jsonl", "checkpoints/best"):
        assert (cut.out / name).read_bytes() == (whole.out / name).read_bytes()


def test_the_best_macro_f1_is_the_highest_and_the_best_loss_the_lowest() -> None:
    for metric, values in (("val/macro_f1", (0.5, 0.4, 0.6)), ("val/loss", (0.5, 0.6, 0.4))):
        best = Best(metric, patience=1)
        assert [best.improves(step, {metric: value}) for step, value in enumerate(values, 1)] == [
            True,
            False,
            True,
        ]
        assert best.step == 3


@pytest.mark.slow
def test_the_best_checkpoint_is_where_macro_f1_was_highest(places: dict[str, Path], tmp_path: Path) -> None:
    loop = looping(max_steps=12, eval_steps=2, metric_for_best="val/macro_f1", load_best=True)
    optimizer = ClassifyOptimizer(learning_rate=0.05, warmup_steps=0)  # so that it goes up and down
    results = classify.run(
        config_for(places, tmp_path / "run", loop=loop, optimizer=optimizer, baseline=False)
    )
    seen = {
        line["step"]: line["val/macro_f1"] for line in read_log(tmp_path / "run") if "val/macro_f1" in line
    }
    assert results["val/macro_f1"] == max(value for step, value in seen.items() if step)
    assert seen[results["best_step"]] == results["val/macro_f1"]


@pytest.mark.slow
def test_balanced_weights_take_no_notice_of_how_rare_a_class_is(
    places: dict[str, Path], tmp_path: Path
) -> None:
    draw = random.Random(0)  # texts that tell nothing: what is left to learn is how frequent each class is
    rows = [{"text": sentence(draw, FILLERS), "label": "usual" if n % 8 else "rare"} for n in range(240)]
    data = write(tmp_path / "rows.jsonl", rows)
    chance = {}
    for weights in ("none", "balanced"):
        optimizer = ClassifyOptimizer(learning_rate=1e-3, warmup_steps=2)
        more = {"data": (data,), "baseline": False, "optimizer": optimizer, "loop": looping(max_steps=20)}
        classify.run(config_for(places, tmp_path / weights, class_weights=weights, **more))
        lines = (tmp_path / weights / "predictions.jsonl").read_text("utf-8").splitlines()
        told = [json.loads(line)["probabilities"]["rare"] for line in lines]
        chance[weights] = sum(told) / len(told)
    assert chance["none"] < 0.25
    assert chance["balanced"] > 0.35


@pytest.mark.slow
def test_the_first_token_has_not_seen_what_the_last_has(places: dict[str, Path], tmp_path: Path) -> None:
    accuracy = {}
    for pooling in ("first", "last"):
        config = config_for(places, tmp_path / pooling, pooling=pooling, baseline=False)
        accuracy[pooling] = classify.run(config)["test"]["accuracy"]
    assert accuracy["first"] < 0.75
    assert accuracy["last"] > 0.9


@pytest.mark.slow
def test_the_texts_own_loss_keeps_a_language_model(places: dict[str, Path], tmp_path: Path) -> None:
    config = config_for(places, tmp_path / "run", lm_weight=0.5, loop=looping(max_steps=15), baseline=False)
    classify.run(config)
    text = torch.tensor([tiny.tokenizer().encode(moods(1)[0]["text"])])
    losses = []
    for model in (hf.load(places["llama"]), hf.load(config.out / "final").backbone):
        with torch.no_grad():
            losses.append(torch.nn.functional.cross_entropy(model(text[:, :-1])[0], text[0, 1:]).item())
    assert losses[1] < losses[0] - 1


@pytest.mark.slow
def test_rows_of_the_same_text_are_used_once_and_never_as_a_test(
    places: dict[str, Path], tmp_path: Path
) -> None:
    rows = moods(40)
    data = write(tmp_path / "rows.jsonl", [*rows, *rows[:10]])
    test = write(tmp_path / "test.jsonl", [*rows[:5], *moods(8, seed=9)])
    config = config_for(places, tmp_path / "run", data=(data,), test_data=(test,), loop=looping(max_steps=2))
    results = classify.run(config)
    lines = [json.loads(line) for line in (config.out / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert not {line["text"] for line in lines} & {row["text"] for row in rows}
    used = results["train_rows"] + results["validation_rows"] + results["test_rows"]
    assert used + results["repeated"] == 50 + 13
    assert results["repeated"] >= 15


@pytest.mark.slow
def test_apply_says_of_new_texts_what_the_report_says(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, made = tmp_path / "run", tmp_path / "made"
    classify.run(config_for(places, run))
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text("utf-8").splitlines()]
    again = write(tmp_path / "again.jsonl", [{"text": line["text"], "label": line["is"]} for line in lines])
    results = classify_apply.run(
        classify_apply.Config(model=run / "final", data=(again,), out=made, batch=3, threads=1)
    )
    assert results["test"] == read_json(run / "run.json")["metrics"]["test"]
    unlabelled = write(tmp_path / "new.jsonl", [{"text": line["text"]} for line in lines])
    capsys.readouterr()
    assert (
        main(["classify", "apply", "--model", str(run / "final"), "--data", str(unlabelled), "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)["predictions"]
    for line, other in zip(lines, found, strict=True):
        assert other["probabilities"] == pytest.approx(line["probabilities"], abs=2e-6)
    assert main(["classify", "apply", "--model", str(run / "final"), "--text", "a lazy fox"]) == 0
    assert capsys.readouterr().out.startswith("good ")


@pytest.mark.slow
def test_a_classifier_goes_on_learning_where_its_labels_are_the_same(
    places: dict[str, Path], tmp_path: Path
) -> None:
    short = looping(max_steps=15)
    first = config_for(places, tmp_path / "first", loop=short, baseline=False)
    classify.run(first)
    second = dataclasses.replace(first, model=first.out / "final", out=tmp_path / "second", seed=1)
    classify.run(second)
    assert read_log(second.out)[0]["val/accuracy"] > 0.8
    other = write(tmp_path / "other.jsonl", [{"text": f"{n}", "label": "xy"[n % 2]} for n in range(20)])
    with pytest.raises(ConfigError, match="the classifier tells bad, good apart, the rows x, y"):
        classify.run(dataclasses.replace(second, data=(other,), out=tmp_path / "third"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            '{"text": "a", "label": "goood"}',
            r"rows\.jsonl:3: label 'goood' is not in the set; did you mean 'good'",
        ),
        ('{"text": "", "label": "good"}', r"rows\.jsonl:3: 'text' is empty"),
        ('{"text": "a"}', r"rows\.jsonl:3: there is no 'label'"),
    ],
)
def test_a_wrong_row_stops_the_stage_before_anything_is_written_or_is_put_aside(
    line: str, told: str, places: dict[str, Path], tmp_path: Path
) -> None:
    rows = [json.dumps(row) for row in moods(40)]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join([*rows[:2], line, *rows[2:]]), encoding="utf-8")
    config = config_for(
        places, tmp_path / "run", data=(data,), labels=("good", "bad"), loop=looping(max_steps=1)
    )
    with pytest.raises(DataError, match=told):
        classify.run(config)
    assert not config.out.exists()
    results = classify.run(dataclasses.replace(config, on_bad_row="reject"))
    assert results["rejected"] == 1
    (rejected,) = (config.out / "rejected.jsonl").read_text("utf-8").splitlines()
    assert json.loads(rejected)["where"].endswith("rows.jsonl:3")
    assert hf.load_config(config.out / "final").labels == ("good", "bad")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pooling": "first", "model": "bert"}, "pooling=first is for decoders"),
        ({"lm_weight": 0.5, "model": "bert"}, r"lm_weight=0\.5 is for decoders"),
        ({"loop": looping(max_length=65)}, "rows of 65 tokens are longer than the model's window of 64"),
        ({"peft": {"method": "lroa"}}, "unknown method 'lroa'; did you mean 'lora'"),
        ({"parallel": ParallelConfig(tp=2)}, "tp"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(
    changes: dict[str, Any], told: str, places: dict[str, Path], tmp_path: Path
) -> None:
    model = places[changes.get("model", "llama")]
    with pytest.raises(LubanError, match=told):
        classify.run(config_for(places, tmp_path / "run", **{**changes, "model": model}))
    assert not (tmp_path / "run").exists()


def test_a_frozen_model_neither_takes_an_adapter_nor_learns_text(places: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="a frozen model takes no adapter"):
        config_for(places, Path("run"), frozen=True, peft={"method": "lora"})
    with pytest.raises(ConfigError, match="a frozen model learns no text"):
        config_for(places, Path("run"), frozen=True, lm_weight=0.5)


def test_a_language_model_is_no_classifier_and_the_other_way_round(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["classify", "apply", "--model", str(places["llama"]), "--text", "a"]
    assert main(words) == 2
    assert "this model has no head for classes" in capsys.readouterr().err
    config = config_for(places, tmp_path / "run", loop=looping(max_steps=1), baseline=False)
    classify.run(config)
    final = config.out / "final"
    with pytest.raises(LubanError, match="a head for a task in the place of the one for words"):
        open_lm(str(final))
    rows = write(tmp_path / "chat.jsonl", [{"prompt": "a", "completion": "b"}])
    assert main(["sft", "--model", str(final), "--data", str(rows), "--out", str(tmp_path / "sft")]) == 2
    assert not (tmp_path / "sft").exists()


def two_ranks(config: classify.Config) -> dict[str, Any]:
    return classify.run(config)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(places: dict[str, Path], tmp_path: Path) -> None:
    one = config_for(
        places, tmp_path / "one", loop=looping(max_steps=6, gradient_accumulation_steps=2), baseline=False
    )
    expected = classify.run(one)
    for name, parallel in (("copies", ParallelConfig(dp=2)), ("shared", ParallelConfig(dp=2, zero=3))):
        config = dataclasses.replace(one, out=tmp_path / name, loop=looping(max_steps=6), parallel=parallel)
        main_one, other = run_ranks(2, two_ranks, config)
        for key in ("val/loss", "val/accuracy", "val/macro_f1"):
            assert main_one[key] == pytest.approx(expected[key], abs=2e-3)
            assert other[key] == main_one[key]
        assert main_one["test"]["accuracy"] == pytest.approx(expected["test"]["accuracy"], abs=0.04)
