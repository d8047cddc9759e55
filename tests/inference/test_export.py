"""`luban export` and `luban import`: what is written opens like any other model, and is what it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from luban.cli import main
from luban.device import DeviceConfig
from luban.errors import ModelError
from luban.folder import read_json
from luban.inference import export
from luban.inference.local import LocalLM, open_lm
from luban.lm import Sampling
from luban.models import hf
from luban.nn.integers import IntLinear
from luban.tokenizers import files
from tests import tiny
from tests.conftest import Workspace


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied model whose rows divide into groups of 32 and 64, with its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    hf.save(tiny.llama(dim=64, hidden=128, tied=True, context=256), folder)
    tiny.tokenizer().save(folder)
    (folder / "generation_config.json").write_text('{"temperature": 0.5}', encoding="utf-8")
    return folder


def exported(model: Path, out: Path, **settings: Any) -> dict[str, Any]:
    return export.run(export.Config(model=model, out=out, **settings))


def opened(folder: Path) -> LocalLM:
    return open_lm(str(folder), DeviceConfig(threads=1))


FORMATS = ("int8", "int4", "nf4", "bfloat16", "float16")


@pytest.mark.parametrize("quantize", FORMATS)
def test_a_folder_in_fewer_bits_opens_like_any_other(quantize: Any, model: Path, tmp_path: Path) -> None:
    told = exported(model, tmp_path / "out", quantize=quantize)
    assert told["bytes"] < told["bytes_before"] * 1.1  # tiny: the head is as large as the rest
    lm = opened(tmp_path / "out")
    assert lm.suggested == {"temperature": 0.5}
    (made,) = lm.generate(["The quick"], Sampling(temperature=0, max_tokens=5, ignore_eos=True))
    assert len(made.tokens) == 5
    (plain,), (rounded,) = (each.score([("", tiny.TEXTS[0])]) for each in (opened(model), lm))
    assert sum(rounded.logps) == pytest.approx(sum(plain.logps), rel=0.02)


def test_a_tied_head_gets_eight_bits_of_its_own(model: Path, tmp_path: Path) -> None:
    exported(model, tmp_path / "with", quantize="int4")
    exported(model, tmp_path / "without", quantize="int4", head=False)
    apart, shared = hf.load(tmp_path / "with"), hf.load(tmp_path / "without")
    assert isinstance(apart.head, IntLinear)
    assert apart.head.bits == 8
    assert torch.equal(apart.embedding.weight, hf.load(model).embedding.weight)
    assert shared.head.weight is shared.embedding.weight


def test_smaller_groups_are_nearer(model: Path, tmp_path: Path) -> None:
    near, far = (exported(model, tmp_path / str(group), quantize="int4", group=group) for group in (32, 64))
    assert near["logits_moved_mean"] < far["logits_moved_mean"]


@pytest.mark.slow
def test_only_an_adapter_of_it_is_trained(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(workspace.model, tmp_path / "small", quantize="int8")
    words = f"sft --model {tmp_path / 'small'} --data {workspace.rows} --threads 1 loop.max_steps=2"
    words += " loop.per_device_train_batch_size=2 loop.max_length=256 loop.compile=false"
    assert main([*words.split(), "--out", str(tmp_path / "whole")]) == 2
    assert "only floats can be trained" in capsys.readouterr().err
    assert main([*words.split(), "peft.method=lora", "--out", str(tmp_path / "lora")]) == 0
    assert opened(tmp_path / "lora" / "final").generate(["In"], Sampling(max_tokens=2))


def test_what_stays_in_floats_can_be_shorter(model: Path, tmp_path: Path) -> None:
    exported(model, tmp_path / "out", quantize="int8", dtype="bfloat16")
    kinds = {name: value.dtype for name, value in load_file(tmp_path / "out" / "model.safetensors").items()}
    assert kinds["model.embed_tokens.weight"] == kinds["model.norm.weight"] == torch.bfloat16
    assert kinds["model.layers.0.mlp.up_proj.weight_packed"] == torch.int32


def test_the_comparison_is_with_the_model_as_it_was(model: Path, tmp_path: Path) -> None:
    told = exported(model, tmp_path / "out", quantize="bfloat16")
    assert 1e-4 < told["weights_moved"] < 0.005  # bfloat16 keeps eight bits: about 1 in 600 on average
    assert told["logits_moved_max"] > 0


def test_a_text_is_what_losses_are_told_of(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(tiny.TEXTS[0], encoding="utf-8")
    told = exported(model, tmp_path / "out", quantize="int8", text=tmp_path / "text", tokens=9)
    lm = opened(model)
    ids = lm.tokenizer.encode(tiny.TEXTS[0])[:9]
    with torch.no_grad():
        logps = lm.model(torch.tensor([ids]))[0].log_softmax(-1)
    nats = -sum(logps[place, token].item() for place, token in enumerate(ids[1:])) / 8
    assert told["loss_before"] == pytest.approx(nats, rel=1e-5)
    assert told["loss"] == pytest.approx(nats, rel=0.01)
    assert told["tokens"] == 9


def test_a_wrong_file_is_found_and_leaves_no_folder(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luban.gguf import write

    monkeypatch.setattr(write, "permute", lambda array, _heads: array)  # rows left in HF's order
    with pytest.raises(ModelError, match=r"'blocks.0.attention.[qk].weight', read again, is 1\d\d.\d% off"):
        exported(model, tmp_path / "out", gguf="f32")
    assert not list(tmp_path.iterdir())


def test_a_gguf_file_and_back_are_two_commands(workspace: Workspace, tmp_path: Path) -> None:
    assert (
        main(["export", "--model", str(workspace.model), "--gguf", "f32", "--out", str(tmp_path / "out")])
        == 0
    )
    assert main(["import", str(tmp_path / "out" / "model.gguf"), "--out", str(tmp_path / "again")]) == 0
    weights, before = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "again", workspace.model)
    )
    assert weights.keys() == before.keys()
    assert all(torch.equal(weights[name], before[name]) for name in before)
    text = "In the beginning 123"
    assert files.load(tmp_path / "again").encode(text) == files.load(workspace.model).encode(text)
    told = read_json(tmp_path / "again" / "run.json")
    assert told["metrics"]["types"] == ["F32"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.gguf", "run.json"]


def test_results_can_be_shown(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export.show(exported(model, tmp_path / "out", gguf="q8_0"))
    shown = capsys.readouterr().out
    assert "q8_0: " in shown
    assert "same first choice" in shown


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("export --model {model} --out {out}", "either --quantize or --gguf"),
        ("export --model {model} --out {out} --quantize int8 --gguf f16", "either --quantize or --gguf"),
        ("export --model {model} --out {out} --gguf f16 --dtype bfloat16", "leave something in floats"),
        (
            "export --model {model} --out {out} --quantize int4 --group 128",
            "rows of 64 weights do not divide",
        ),
        ("export --model {model} --out {out} --quantize int3", "int3"),
        ("export --model {adapter} --out {out} --quantize int8", "this is an adapter"),
        ("export --model {model} --out {out} --quantize int8 --text {model}/none", "no such file"),
        ("import {model}/none.gguf --out {out}", "no such file"),
        ("import {model}/config.json --out {out}", "not a GGUF file"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    words: str, problem: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 4}), encoding="utf-8")
    assert main(words.format(model=model, out=tmp_path / "out", adapter=adapter).split()) == 2
    told = capsys.readouterr().err
    assert problem in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_a_model_in_fewer_bits_is_exported_once(model: Path, tmp_path: Path) -> None:
    exported(model, tmp_path / "out", quantize="int8")
    with pytest.raises(ModelError, match="in fewer bits already"):
        exported(tmp_path / "out", tmp_path / "again", gguf="f16")
