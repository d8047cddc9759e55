"""IA3: it starts as the model, scales what it says, is merged exactly, and is `peft`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from luban.errors import ConfigError
from luban.models import hf
from luban.nn import surgery
from luban.peft import files
from luban.peft.ia3 import Ia3Config, apply
from tests import tiny
from tests.peft import learning
from tests.peft.learning import disturb, names_of, tokens


def model_and_adapter(base: Path | None = None, **changes: Any) -> tuple[Any, Any]:
    """A model, written to `base` where it is given, and its factors."""
    torch.manual_seed(0)
    model: Any = tiny.llama(model_type="qwen2")  # with biases on k and v
    with torch.no_grad():
        for block in model.blocks:
            block.attention.k.bias.normal_()
            block.attention.v.bias.normal_()
    if base:
        hf.save(model, base)
    return model, apply(model, Ia3Config(**changes))


def test_factors_of_one_are_the_model_itself_to_the_bit() -> None:
    model, adapter = model_and_adapter()
    attached = model(tokens())
    adapter.remove()
    assert torch.equal(model(tokens()), attached)


def test_a_factor_doubles_the_output_or_the_input_it_stands_at() -> None:
    model, _ = model_and_adapter()
    x, h = torch.randn(1, 3, 32), torch.randn(1, 3, 48)
    key, down = model.blocks[0].attention.k, model.blocks[0].mlp.down
    before, fed = key(x), down(h)
    with torch.no_grad():
        key.attached["default"].factors[5] = 2.0
        down.attached["default"].factors[0, 7] = 2.0
    doubled = before.clone()
    doubled[..., 5] *= 2
    torch.testing.assert_close(key(x), doubled)
    torch.testing.assert_close(down(h) - fed, h[..., 7:8] * down.weight[:, 7], atol=1e-6, rtol=1e-4)


def test_trained_weights_are_two_kv_widths_and_the_mlps_per_layer() -> None:
    _, adapter = model_and_adapter()
    kv, hidden, layers = 16, 48, 2
    assert learning.count(adapter) == layers * (2 * kv + hidden)


def test_merged_is_attached_with_biases_and_half_the_share_is_half_the_way() -> None:
    model, adapter = model_and_adapter()
    before = learning.copied(model)
    disturb(adapter)
    attached = model(tokens())
    adapter.merge()
    torch.testing.assert_close(model(tokens()), attached, atol=1e-5, rtol=1e-5)
    adapter.unmerge()
    assert learning.unchanged(model, before)
    with surgery.shared(model, {"default": 0.5}):
        half = model(tokens())
    adapter.merge(0.5, for_good=True)
    torch.testing.assert_close(model(tokens()), half, atol=1e-5, rtol=1e-5)
    assert not list(surgery.parts(model))


def test_training_moves_the_factors_only_and_lowers_the_loss() -> None:
    model, adapter = model_and_adapter()
    before = learning.copied(model)
    losses = learning.train(adapter, steps=16, rate=1.0)
    assert losses[-1] < losses[0] - 0.05
    assert learning.unchanged(model, before)


def test_inputs_are_scaled_only_of_layers_that_are_targets() -> None:
    with pytest.raises(ConfigError, match=r"down' is meant by feedforward_modules but not by target_modules"):
        model_and_adapter(target_modules=("k", "v"))


def test_blocks_that_are_computed_twice_give_the_same_gradients() -> None:
    learning.check_recomputing(model_and_adapter)


def test_on_a_base_in_bfloat16_float32_weights_are_trained() -> None:
    learning.check_bfloat16_base(*model_and_adapter())


@pytest.mark.slow
def test_the_factors_of_gpt2s_keys_and_values_are_those_of_one_layer_in_pefts_files(tmp_path: Path) -> None:
    from peft import PeftModel

    torch.manual_seed(0)
    model = tiny.gpt2()
    hf.save(model, tmp_path / "base")
    names = names_of(model)
    adapter = apply(model, Ia3Config())
    disturb(adapter)
    expected = model(tokens())
    files.save(adapter, tmp_path / "ours", names=names)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    oracle = PeftModel.from_pretrained(base, str(tmp_path / "ours"))
    torch.testing.assert_close(oracle(tokens()).logits, expected, atol=1e-5, rtol=1e-5)
    oracle.save_pretrained(str(tmp_path / "theirs"))
    again = hf.load(tmp_path / "base")
    loaded = files.load(again, tmp_path / "theirs", names=names)
    torch.testing.assert_close(again(tokens()), expected, atol=1e-5, rtol=1e-5)
    assert set(loaded.trained()) == set(adapter.trained())


@pytest.mark.slow
def test_peft_computes_what_we_do_from_our_factors_and_we_from_its(tmp_path: Path) -> None:
    from peft import PeftModel

    model, adapter = model_and_adapter(tmp_path / "base")
    disturb(adapter)
    expected = model(tokens())
    files.save(adapter, tmp_path / "ours", names=names_of(model))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    oracle = PeftModel.from_pretrained(base, str(tmp_path / "ours"))
    torch.testing.assert_close(oracle(tokens()).logits, expected, atol=1e-5, rtol=1e-5)
    oracle.save_pretrained(str(tmp_path / "theirs"))
    again = hf.load(tmp_path / "base")
    loaded = files.load(again, tmp_path / "theirs", names=names_of(again))
    torch.testing.assert_close(again(tokens()), expected, atol=1e-5, rtol=1e-5)
    assert learning.count(loaded) == learning.count(adapter)
