"""The stage `merge`: adapters into their base, and several models into one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luban.cli import main
from luban.errors import ConfigError, DataError, ModelError
from luban.folder import RUN_FILE
from luban.models import FAMILIES, hf
from luban.models.names import module_names
from luban.nn.surgery import own_parameters
from luban.peft import METHODS, files
from luban.tokenizers.files import load
from luban.tokenizers.train import train_bpe
from luban.training.checkpoint import write_model_folder
from luban.tuning import arithmetic, merge
from tests import tiny


def tokens() -> Tensor:
    return torch.randint(0, 384, (2, 9), generator=torch.Generator().manual_seed(1))


def model_folder(path: Path, seed: int, family: Any = tiny.llama, **changes: Any) -> Path:
    torch.manual_seed(seed)
    write_model_folder(path, family(**changes), tiny.tokenizer())
    return path


def adapter_folder(path: Path, base: Path, seed: int, method: str = "lora", **settings: Any) -> Path:
    """An adapter of `base` whose weights all mean something."""
    model = hf.load(base)
    names = module_names(FAMILIES[model.config.model_type].names, own_parameters(model))
    torch.manual_seed(seed)
    adapter = METHODS[method].apply(model, METHODS[method].config(**settings))
    with torch.no_grad():
        for weight in adapter.trained().values():
            weight += 0.1 * torch.randn_like(weight)
    files.save(adapter, path, names=names, base=str(base))
    return path


def merged(**settings: Any) -> dict[str, Any]:
    return merge.run(merge.Config(**settings))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "base", 0)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("family", [tiny.llama, tiny.gpt2])
def test_the_merged_folder_computes_what_base_and_adapters_do(tmp_path: Path, family: Any) -> None:
    from transformers import AutoModelForCausalLM

    base = model_folder(tmp_path / "base", 0, family)
    first = adapter_folder(tmp_path / "first", base, 1)
    second = adapter_folder(tmp_path / "second", base, 2, target_modules=("all-linear",), r=2)
    out = tmp_path / "out"
    told = merged(model=base, adapters=(first, second), weights=(0.5, 2.0), out=out)
    model = hf.load(base)
    names = module_names(FAMILIES[model.config.model_type].names, own_parameters(model))
    for folder, share in ((first, 0.5), (second, 2.0)):
        adapter = files.load(model, folder, names=names, name=folder.name)
        for _, part in adapter.parts().values():
            part.share = share
    theirs = AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(theirs(tokens()).logits, model(tokens()), atol=1e-4, rtol=1e-4)
    assert told["logits_moved_max"] < 1e-4
    assert told["same_choice"] == 1.0
    assert load(out).encode("builder") == tiny.tokenizer().encode("builder")


def test_the_error_of_a_16_bit_merge_is_reported(tmp_path: Path, base: Path) -> None:
    adapter = adapter_folder(tmp_path / "adapter", base, 1)
    told = merged(model=base, adapters=(adapter,), dtype="bfloat16", out=tmp_path / "out")
    assert 1e-5 < told["logits_moved_max"] < 0.1 * told["logits_spread"]
    assert hf.load(tmp_path / "out", dtype="auto").embedding.weight.dtype == torch.bfloat16
    assert json.loads((tmp_path / "out" / RUN_FILE).read_text("utf-8"))["metrics"] == told


def test_the_base_of_a_qlora_is_merged_as_it_was_rounded(tmp_path: Path, base: Path) -> None:
    adapter = adapter_folder(tmp_path / "adapter", base, 1, "qlora", r=2)
    told = merged(model=base, adapters=(adapter,), out=tmp_path / "out")
    assert told["quantised_base"]
    assert told["logits_moved_max"] < 1e-4
    plain, rounded = hf.load(base), hf.load(tmp_path / "out")
    change = (rounded.blocks[0].attention.k.weight - plain.blocks[0].attention.k.weight).detach()
    assert change.norm() > 0


def test_a_text_is_what_is_compared_on(tmp_path: Path, base: Path) -> None:
    adapter = adapter_folder(tmp_path / "adapter", base, 1)
    text = tmp_path / "text.txt"
    text.write_text("In the beginning the builder made his own tools.", encoding="utf-8")
    count = len(tiny.tokenizer().encode(text.read_text("utf-8")))
    settings: dict[str, Any] = {"model": base, "adapters": (adapter,), "text": text}
    assert merged(**settings, out=tmp_path / "out")["tokens"] == count
    assert merged(**settings, tokens=3, out=tmp_path / "less")["tokens"] == 3
    text.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="the text is empty"):
        merged(**settings, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_mean_of_models_by_hand() -> None:
    weights = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])]
    assert arithmetic.mean(weights, (1.0, 1.0)).tolist() == [2.0, 0.0]
    assert arithmetic.mean(weights, (3.0, 1.0)).tolist() == [1.5, 1.0]


def test_task_arithmetic_by_hand() -> None:
    weights = [torch.tensor([2.0, 1.0]), torch.tensor([1.0, 4.0])]
    assert arithmetic.task_arithmetic(torch.tensor([1.0, 1.0]), weights, (1.0, -0.5)).tolist() == [2.0, -0.5]


def test_ties_trims_elects_and_averages_by_hand() -> None:
    base = torch.tensor([10.0, 10.0, 10.0, 10.0, 10.0])
    changes = torch.tensor(
        [[3.0, -1.0, 0.2, 4.0, 0.0], [-1.0, -3.0, 5.0, 2.0, 0.1], [-1.0, 5.0, -0.1, 0.1, 2.0]]
    )
    floors = [arithmetic.floor([change], 0.6) for change in changes]
    assert floors == [1.0, 2.0, 1.0]  # three of five numbers of each are kept
    # kept:     3 -1  .  4  .      sums:  2  1  5  6  2      the mean of those with the sum's sign
    #           . -3  5  2  .
    #          -1  5  .  .  2
    made = arithmetic.ties(base, list(base + changes), (1.0, 1.0, 1.0), floors)
    torch.testing.assert_close(made, base + torch.tensor([3.0, 5.0, 5.0, 3.0, 2.0]))
    # the third counted four times: -1 outvotes 3 in the first number
    made = arithmetic.ties(base, list(base + changes), (1.0, 1.0, 4.0), floors)
    torch.testing.assert_close(made, base + torch.tensor([-1.0, 5.0, 5.0, 3.0, 2.0]))


def test_the_floor_leaves_the_share_of_the_largest_over_all_weights() -> None:
    changes = [torch.arange(-50.0, 0.0), torch.arange(1.0, 51.0).view(5, 10)]
    assert arithmetic.floor(changes, 0.2) == 41.0  # of 100 numbers, 1 to 50 in size twice each
    assert arithmetic.floor(changes, 1.0) == 1.0
    assert arithmetic.floor(changes, 1e-9) == 50.0


def test_models_are_averaged_into_a_whole_folder(tmp_path: Path, base: Path) -> None:
    other = model_folder(tmp_path / "other", 1)
    merged(models=(base, other), out=tmp_path / "mean")
    merged(models=(base, other), method="linear", weights=(3.0, 1.0), out=tmp_path / "linear")
    one, two = hf.load(base).state_dict(), hf.load(other).state_dict()
    mean, linear = hf.load(tmp_path / "mean").state_dict(), hf.load(tmp_path / "linear").state_dict()
    for name, value in one.items():
        torch.testing.assert_close(mean[name], (value + two[name]) / 2)
        torch.testing.assert_close(linear[name], 0.75 * value + 0.25 * two[name])
    assert load(tmp_path / "mean").encode("builder")


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_all_of_one_models_change_gives_that_model_and_none_of_it_the_base(
    tmp_path: Path, base: Path, method: str
) -> None:
    other = model_folder(tmp_path / "other", 1)
    settings: dict[str, Any] = {"model": base, "models": (other,), "method": method, "density": 1.0}
    merged(**settings, out=tmp_path / "all")
    merged(**settings, scale=0.0, out=tmp_path / "none")
    for made, expected in (("all", other), ("none", base)):
        for name, value in hf.load(expected).state_dict().items():
            torch.testing.assert_close(hf.load(tmp_path / made).state_dict()[name], value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either adapters or models"),
        ({"adapters": ("a",)}, "adapters need the base"),
        ({"models": ("a",), "method": "ties"}, "ties need the base"),
        ({"models": ("a",), "model": "b"}, "'average' has no base"),
        ({"models": ("a", "b"), "method": "linear", "weights": (1.0,)}, "1 weights for 2 folders"),
        ({"models": ("a", "b"), "weights": (1.0, 1.0)}, "an average has no weights"),
        ({"models": ("a", "b"), "method": "linear", "weights": (1.0, -1.0)}, "add up to more than 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        merge.Config(**settings, out=Path("out"))


def test_models_of_other_shapes_and_adapters_of_other_bases_leave_nothing_behind(
    tmp_path: Path, base: Path
) -> None:
    other = model_folder(tmp_path / "other", 1, hidden=64)
    with pytest.raises(ModelError, match=r"gate.*in the first model and not here|.*first model"):
        merged(models=(base, other), out=tmp_path / "out")
    adapter = adapter_folder(tmp_path / "adapter", other, 1)
    with pytest.raises(ModelError, match="trained on another model"):
        merged(model=base, adapters=(adapter,), out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "other"]


def test_a_method_that_no_weight_can_hold_is_refused(tmp_path: Path, base: Path) -> None:
    adapter = adapter_folder(tmp_path / "adapter", base, 1, "bottleneck")
    with pytest.raises(ConfigError, match="bottleneck computes what no single weight does"):
        merged(model=base, adapters=(adapter,), out=tmp_path / "out")


def test_adapters_of_an_encoder_are_merged_too(tmp_path: Path) -> None:
    base = model_folder(tmp_path / "base", 0, tiny.bert)
    adapter = adapter_folder(tmp_path / "adapter", base, 1)
    told = merged(model=base, adapters=(adapter,), out=tmp_path / "out")
    assert told["logits_moved_max"] < 1e-4


def test_another_tokenizer_is_told(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = model_folder(tmp_path / "other", 1)
    same = other / "tokenizer.json"
    same.write_text(json.dumps(json.loads(same.read_text("utf-8"))), encoding="utf-8")  # laid out otherwise
    merged(models=(base, other), out=tmp_path / "out")
    assert "tokenizer" not in capsys.readouterr().err
    train_bpe(tiny.TEXTS, vocab=300).save(other)
    merged(models=(base, other), out=tmp_path / "told")
    assert f"{other} has another tokenizer than {base}" in capsys.readouterr().err


def test_the_command_says_how_far_the_logits_moved(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_folder(tmp_path / "adapter", base, 1)
    words = f"merge --model {base} --adapters {adapter} --out {tmp_path / 'out'}"
    assert main(words.split()) == 0
    shown = capsys.readouterr().out
    assert "merged (adapters, float32)" in shown
    assert "same first choice 100.0%" in shown
