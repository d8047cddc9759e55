"""Adapter folders: what is trained here loads in `peft` with equal logits, and the other way round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from luban.errors import ConfigError, ModelError
from luban.models import hf
from luban.peft import files
from luban.peft.lora import LoraConfig, LowRank, apply
from luban.peft.targets import own_patterns
from tests import tiny
from tests.peft.learning import names_of, tokens


def trained(folder: Path, family: Any = tiny.llama, **changes: Any) -> tuple[Any, Any]:
    """A base in `folder` with an adapter whose weights all mean something."""
    torch.manual_seed(0)
    model = family()
    hf.save(model, folder)
    adapter = apply(model, LoraConfig(r=3, **changes))
    with torch.no_grad():
        for weight in adapter.trained().values():
            weight += 0.1 * torch.randn_like(weight)
    return model, adapter


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"target_modules": ("q", "down", "embedding")}, {"use_dora": True}, {"use_rslora": True}],
    ids=str,
)
def test_peft_computes_what_we_do_from_our_adapter_and_we_from_its(tmp_path: Path, changes: Any) -> None:
    from peft import PeftModel

    model, adapter = trained(tmp_path / "base", **changes)
    expected = model(tokens())
    files.save(adapter, tmp_path / "ours", names=names_of(model), base=str(tmp_path / "base"))
    oracle = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), str(tmp_path / "ours")
    )
    torch.testing.assert_close(oracle(tokens()).logits, expected, atol=1e-5, rtol=1e-5)
    oracle.save_pretrained(str(tmp_path / "theirs"))
    again = hf.load(tmp_path / "base")
    files.load(again, tmp_path / "theirs", names=names_of(again))
    torch.testing.assert_close(again(tokens()), expected, atol=1e-5, rtol=1e-5)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    model, adapter = trained(tmp_path / "base")
    files.save(adapter, tmp_path / "ours", names=names_of(model), base="somewhere")
    torch.manual_seed(5)
    other = tiny.llama()
    with pytest.raises(ModelError, match=r"trained on another model(.|\n)*somewhere"):
        files.load(other, tmp_path / "ours", names=names_of(other))


def test_an_entry_that_changes_something_unknown_is_refused(tmp_path: Path) -> None:
    model, adapter = trained(tmp_path / "base")
    files.save(adapter, tmp_path / "ours", names=names_of(model))
    path = tmp_path / "ours" / files.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"lora_bias": True}), encoding="utf-8")
    again = hf.load(tmp_path / "base")
    with pytest.raises(ModelError, match="'lora_bias' is True"):
        files.load(again, tmp_path / "ours", names=names_of(again))


GPT2_CHANGES: list[dict[str, Any]] = [
    {},
    {"target_modules": ("q", "k", "v", "down")},
    {
        "rank_pattern": {"q": 2, "0.*.v": 5},
        "alpha_pattern": {"v": 7.0, "o": 3.0},
        "target_modules": ("q", "v", "o"),
    },
    {"use_rslora": True, "rank_pattern": {"v": 5}},
    {"use_dora": True, "rank_pattern": {"v": 5}},
]
"""Only some of a fused layer's members, all of them, other ranks and scales, lengths."""


@pytest.mark.slow
@pytest.mark.parametrize("changes", GPT2_CHANGES, ids=str)
def test_layers_that_gpt2s_file_fuses_are_one_adapter_in_peft_and_come_back_as_they_were(
    tmp_path: Path, changes: Any
) -> None:
    from peft import PeftModel

    model, adapter = trained(tmp_path / "base", tiny.gpt2, **changes)
    expected = model(tokens())
    files.save(adapter, tmp_path / "ours", names=names_of(model))
    oracle = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), str(tmp_path / "ours")
    )
    torch.testing.assert_close(oracle(tokens()).logits, expected, atol=1e-5, rtol=1e-5)
    oracle.save_pretrained(str(tmp_path / "theirs"))
    again = hf.load(tmp_path / "base")
    back = files.load(again, tmp_path / "theirs", names=names_of(again))
    torch.testing.assert_close(again(tokens()), expected, atol=1e-5, rtol=1e-5)
    if "use_dora" not in changes:
        assert isinstance(back, LowRank)
        assert {place: part.rank for place, part in back.lora().items()} == {
            place: part.rank for place, part in adapter.lora().items()
        }


@pytest.mark.slow
@pytest.mark.parametrize("ours", [tiny.gpt2, tiny.llama], ids=["gpt2", "llama"])
def test_all_linear_and_patterns_of_ranks_mean_what_they_mean_in_peft(tmp_path: Path, ours: Any) -> None:
    import peft

    torch.manual_seed(0)
    hf.save(ours(), tmp_path / "base")
    config = peft.LoraConfig(
        r=4, target_modules="all-linear", rank_pattern={"mlp.c_proj": 6, "q_proj": 2},
        alpha_pattern={r"h\.0\.attn\.c_attn": 3, "layers.1.self_attn.v_proj": 5}, init_lora_weights=False,
    )  # fmt: skip
    oracle = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config)
    oracle.save_pretrained(str(tmp_path / "theirs"))
    model = hf.load(tmp_path / "base")
    names = names_of(model)
    adapter = files.load(model, tmp_path / "theirs", names=names)
    torch.testing.assert_close(model(tokens()), oracle(tokens()).logits, atol=1e-5, rtol=1e-5)
    fresh = apply(hf.load(tmp_path / "base"), LoraConfig(target_modules=("all-linear",)))
    assert set(fresh.parts()) == set(adapter.parts())


def test_a_fresh_adapter_on_fused_layers_keeps_its_room(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny.gpt2()
    adapter = apply(model, LoraConfig(r=3))
    files.save(adapter, tmp_path, names=names_of(model))
    torch.manual_seed(0)
    again = tiny.gpt2()
    back = files.load(again, tmp_path, names=names_of(again))
    assert isinstance(back, LowRank)
    assert {part.rank for part in back.lora().values()} == {6}  # of q and v together


def test_the_base_may_be_loaded_in_another_type(tmp_path: Path) -> None:
    model, adapter = trained(tmp_path / "base")
    files.save(adapter, tmp_path / "ours", names=names_of(model))
    again = hf.load(tmp_path / "base", dtype="bfloat16")
    files.load(again, tmp_path / "ours", names=names_of(again))
    torch.testing.assert_close(again(tokens()).float(), model(tokens()), atol=0.05, rtol=0.05)


def test_targets_are_told_so_that_they_mean_no_other_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny.gpt2()
    adapter = apply(model, LoraConfig(target_modules=("up", "down")))
    files.save(adapter, tmp_path, names=names_of(model))
    entries = json.loads((tmp_path / files.CONFIG).read_text("utf-8"))
    whole = [f"transformer.h.{block}.mlp.c_proj" for block in (0, 1)]
    assert entries["target_modules"] == ["c_fc", *whole]  # as attention has a c_proj too


def test_names_of_hugging_face_mean_our_layers() -> None:
    names = names_of(tiny.gpt2())
    assert own_patterns(("attn.c_attn", "up"), names)[:3] == tuple(
        f"blocks.0.attention.{end}" for end in "qkv"
    )
    assert own_patterns(("attn.c_attn", "up"), names)[-1] == "up"
    assert own_patterns(("q_proj", "o", "all-linear", "q_prj"), names_of(tiny.llama()))[1:] == (
        "blocks.1.attention.q", "o", "all-linear", "q_prj",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"r": 4}, "has rank 3, the config says 4"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights' is 'pissa'"),
        ({"peft_type": "LORRA"}, "did you mean 'LORA'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path: Path, entries: Any, message: str) -> None:
    model, adapter = trained(tmp_path / "base")
    files.save(adapter, tmp_path / "ours", names=names_of(model))
    path = tmp_path / "ours" / files.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | entries), encoding="utf-8")
    again = hf.load(tmp_path / "base")
    with pytest.raises(ModelError, match=message):
        files.load(again, tmp_path / "ours", names=names_of(again))


def test_a_pattern_of_ranks_that_means_no_adapted_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank_pattern: 'down' means no layer that is adapted"):
        apply(tiny.llama(), LoraConfig(rank_pattern={"down": 2}))
