"""Training some of the model's own weights: BitFit and the last blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from luban.errors import ConfigError, ModelError
from luban.models import FAMILIES
from luban.models.base import Shape
from luban.nn import surgery
from luban.nn.surgery import own_parameters
from luban.peft import files
from luban.peft.adapter import Adapter, switched_off
from luban.peft.lora import LoraConfig
from luban.peft.lora import apply as apply_lora
from luban.peft.select import (
    BIASED,
    BitFitConfig,
    LastBlocksConfig,
    apply_bitfit,
    apply_last_blocks,
    choose,
)
from luban.training.recompute import recompute_blocks
from tests import tiny
from tests.peft.learning import copied, loss_of, packed, train


def bitfit(family: Any = tiny.gpt2, **changes: Any) -> tuple[Any, Adapter]:
    torch.manual_seed(0)
    model = family()
    return model, apply_bitfit(model, BitFitConfig(**changes))


def last(family: Any = tiny.llama, **changes: Any) -> tuple[Any, Adapter]:
    torch.manual_seed(0)
    model = family()
    return model, apply_last_blocks(model, LastBlocksConfig(**changes))


def gradients(adapter: Adapter) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in adapter.trained().items() if value.grad is not None}


def test_bitfit_trains_every_bias_and_nothing_else() -> None:
    model, adapter = bitfit()
    dim, hidden, layers = 32, 128, 2
    in_a_block = 3 * dim + dim + hidden + dim + 2 * dim  # q k v, o, up, down, two norms
    assert sum(value.numel() for value in adapter.trained().values()) == layers * in_a_block + dim
    before, first = copied(model), loss_of(model)
    train(adapter, steps=20)
    assert loss_of(model) < first - 0.1
    for name, value in own_parameters(model).items():
        assert torch.equal(value, before[name]) != name.endswith("bias"), name


def test_bitfit_of_a_family_without_biases_says_which_have_them() -> None:
    with pytest.raises(
        ConfigError, match=r"'llama' model has no biases; families with: .*gpt2(.|\n)*train_norms"
    ):
        bitfit(tiny.llama)
    _, adapter = bitfit(tiny.llama, train_norms=True)
    assert len(adapter.trained()) == 5
    assert all("norm" in name for name in adapter.trained())


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"ngram"}))
def test_the_families_named_as_having_biases_are_those(family: str) -> None:
    shape = Shape(model_type=family, vocab=64, context=16, dim=64, layers=1, bos_id=1, eos_id=1)
    model = FAMILIES[family].model(FAMILIES[family].config.sized(shape))
    has = any(name.rpartition(".")[2] == "bias" for name in own_parameters(model))
    assert has == (family in BIASED)


def test_the_last_blocks_are_counted_from_the_output() -> None:
    def places(**changes: Any) -> set[str]:
        return {".".join(name.split(".")[:2]) for name in last(**changes)[1].trained()}

    assert places() == {"blocks.1", "norm.weight"}
    assert places(blocks=2, train_norm=False, train_head=True) == {"blocks.0", "blocks.1", "head.weight"}
    with pytest.raises(ConfigError, match="blocks is 3; this model has 2"):
        last(blocks=3)


def test_a_tied_head_is_the_embedding() -> None:
    model, adapter = last(tiny.gpt2, train_norm=False, train_head=True)
    assert {name for name in adapter.trained() if not name.startswith("blocks.1.")} == {"embedding.weight"}
    old = model.embedding.weight.detach().clone()
    train(adapter, steps=2)
    new = model.embedding.weight.detach().clone()
    assert not torch.equal(old, new)
    with switched_off(model):
        assert torch.equal(model.head.weight, old)
    assert torch.equal(model.head.weight, new)


def test_only_the_last_block_learns_and_removing_it_restores_the_model() -> None:
    model, adapter = last(train_norm=False)
    before, first = copied(model), loss_of(model)
    assert adapter.trained().keys() == {name for name in before if name.startswith("blocks.1.")}
    train(adapter, steps=20)
    assert loss_of(model) < first - 0.1
    for name, value in own_parameters(model).items():
        assert torch.equal(value, before[name]) != name.startswith("blocks.1."), name
    adapter.remove()
    assert all(torch.equal(value, before[name]) for name, value in own_parameters(model).items())
    assert not list(surgery.parts(model))


@pytest.mark.parametrize("make", [bitfit, last])
def test_switched_off_the_model_is_the_old_one_and_then_the_new_one_again(make: Any) -> None:
    model, adapter = make()
    tokens = packed().tokens
    old = model(tokens)
    train(adapter, steps=3)
    new = model(tokens)
    with switched_off(model):
        assert torch.equal(model(tokens), old)
    assert torch.equal(model(tokens), new)
    with surgery.shared(model, {"default": 0.5}):
        name = next(iter(adapter.trained()))
        half = adapter.trained()[name].detach().clone()
    adapter.merge(for_good=True)
    assert torch.equal(model(tokens), new)
    assert not torch.equal(half, model.get_parameter(name))


def test_weights_that_stand_in_no_layer_are_selected_as_well() -> None:
    model = torch.nn.Module()
    model.scale = torch.nn.Parameter(torch.tensor(1.0))
    choose(model, ["scale"], "default")
    with torch.no_grad():
        model.scale += 2
    with switched_off(model):
        assert model.scale.item() == 1
    assert model.scale.item() == 3


def test_half_a_share_is_half_the_change() -> None:
    model, adapter = bitfit()
    before = {name: value.detach().clone() for name, value in adapter.trained().items()}
    train(adapter, steps=3)
    after = {name: value.detach().clone() for name, value in adapter.trained().items()}
    with surgery.shared(model, {"default": 0.25}):
        for name, value in adapter.trained().items():
            torch.testing.assert_close(value.detach(), before[name] + 0.25 * (after[name] - before[name]))


def test_a_reference_pass_between_forward_and_backward_does_no_harm() -> None:
    model, adapter = last()
    train(adapter, steps=3)
    tokens = packed().tokens
    model(tokens).logsumexp(-1).sum().backward()
    expected = gradients(adapter)
    model.zero_grad()
    loss = model(tokens).logsumexp(-1).sum()
    with switched_off(model), torch.no_grad():
        model(tokens)
    loss.backward()
    assert all(torch.equal(value, expected[name]) for name, value in gradients(adapter).items())


def test_a_recomputed_pass_trains_the_same_weights() -> None:
    model, adapter = bitfit()
    recompute_blocks(model)
    first = loss_of(model)
    train(adapter, steps=20)
    assert loss_of(model) < first - 0.1


def test_a_bfloat16_model_is_trained_in_its_own_type() -> None:
    torch.manual_seed(0)
    model = tiny.gpt2().bfloat16()
    adapter = apply_bitfit(model, BitFitConfig())
    first = loss_of(model)
    train(adapter, steps=20)
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert loss_of(model) < first - 0.1


@pytest.mark.parametrize("make", [bitfit, last])
def test_the_file_holds_the_trained_tensors_only_and_loads_onto_the_old_model(
    make: Any, tmp_path: Path
) -> None:
    model, adapter = make()
    family = type(model)
    train(adapter, steps=3)
    files.save(adapter, tmp_path, names={})
    assert len(load_file(tmp_path / files.WEIGHTS)) == len(adapter.trained())
    assert json.loads((tmp_path / files.CONFIG).read_text("utf-8"))["peft_type"].startswith("LUBAN_")
    torch.manual_seed(0)
    again = family(model.config)
    loaded = files.load(again, tmp_path, names={})
    assert loaded.config == adapter.config
    assert torch.equal(again(packed().tokens), model(packed().tokens))
    with pytest.raises(ModelError, match="trained on another model"):
        files.load(family(model.config), tmp_path, names={})


def test_a_selection_and_a_lora_stand_side_by_side() -> None:
    model, selection = bitfit()
    train(selection, steps=2)
    tokens = packed().tokens
    expected = model(tokens)
    lora = apply_lora(model, LoraConfig(r=2), name="second")
    torch.testing.assert_close(model(tokens), expected)
    assert set(selection.parts()) & {"blocks.0.attention.q"} == set(lora.parts()) & {"blocks.0.attention.q"}
