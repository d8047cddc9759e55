"""LoRA and what every adapter can: it starts as the model, is merged, switched, composed and taken off again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from luban.errors import ConfigError
from luban.nn import surgery
from luban.peft import METHODS
from luban.peft.adapter import switched_off
from luban.peft.lora import LoraConfig, apply
from tests import tiny

TARGETS = ("q", "v", "down", "embedding")


def tokens() -> Tensor:
    return torch.randint(0, 384, (2, 9), generator=torch.Generator().manual_seed(1))


def model_and_adapter(name: str = "default", **changes: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = tiny.llama()
    adapter = apply(model, LoraConfig(r=3, target_modules=TARGETS, **changes), name=name)
    return model, adapter


def disturb(adapter: Any) -> None:
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in adapter.trained().values():
            weight += 0.1 * torch.randn_like(weight)


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_starts_as_the_model_itself(dora: bool) -> None:
    torch.manual_seed(0)
    expected = tiny.llama()(tokens())
    model, _ = model_and_adapter(use_dora=dora)
    torch.testing.assert_close(model(tokens()), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dora", [False, True])
def test_merged_is_the_same_as_attached_and_unmerged_as_before(dora: bool) -> None:
    model, adapter = model_and_adapter(use_dora=dora)
    disturb(adapter)
    before = {name: value.clone() for name, value in surgery.own_parameters(model).items()}
    attached = model(tokens())
    adapter.merge()
    torch.testing.assert_close(model(tokens()), attached, atol=1e-5, rtol=1e-5)
    adapter.unmerge()
    assert torch.equal(model(tokens()), attached)
    for name, value in surgery.own_parameters(model).items():
        assert torch.equal(value, before[name])


def test_merged_for_good_leaves_a_plain_model() -> None:
    model, adapter = model_and_adapter()
    disturb(adapter)
    attached = model(tokens())
    adapter.merge(for_good=True)
    torch.testing.assert_close(model(tokens()), attached, atol=1e-5, rtol=1e-5)
    assert not list(surgery.parts(model))
    assert list(model.state_dict()) == list(tiny.llama().state_dict())


def test_an_adapter_switched_off_or_removed_leaves_the_model_to_the_bit() -> None:
    torch.manual_seed(0)
    plain = tiny.llama()
    expected, names = plain(tokens()), list(plain.state_dict())
    model, adapter = model_and_adapter()
    disturb(adapter)
    assert not torch.equal(model(tokens()), expected)
    with switched_off(model):
        assert torch.equal(model(tokens()), expected)
    assert not torch.equal(model(tokens()), expected)
    adapter.remove()
    assert torch.equal(model(tokens()), expected)
    assert list(model.state_dict()) == names


def test_trained_weights_are_2_r_d_per_matrix_and_nothing_else() -> None:
    _, adapter = model_and_adapter()
    dim, kv, hidden, vocab, r, layers = 32, 16, 48, 384, 3, 2
    expected = layers * r * ((dim + dim) + (dim + kv) + (hidden + dim)) + r * (vocab + dim)
    assert sum(weight.numel() for weight in adapter.trained().values()) == expected


def test_two_adapters_add_up_by_their_shares() -> None:
    model, first = model_and_adapter("first")
    second = apply(model, LoraConfig(r=2, target_modules=("o",)), name="second")
    disturb(second)
    layer = model.blocks[0].attention.o
    x = torch.randn(1, 4, 32)
    with surgery.shared(model, {"second": 0.5}):
        half = layer(x)
    with switched_off(model):
        none = layer(x)
    torch.testing.assert_close(2 * (half - none), layer(x) - none, atol=1e-5, rtol=1e-5)
    first.remove()
    assert [part for _, _, part in surgery.parts(model)]


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    assert LoraConfig(r=16, lora_alpha=8).scale == 0.5
    assert LoraConfig(r=16, lora_alpha=8, use_rslora=True).scale == 2.0


def test_a_pattern_that_means_no_layer_says_which_there_are() -> None:
    with pytest.raises(ConfigError, match="'q_prj' matches no layer"):
        apply(tiny.llama(), LoraConfig(target_modules=("q_prj",)))
    with pytest.raises(ConfigError, match="the head cannot have an adapter"):
        apply(tiny.llama(), LoraConfig(target_modules=("head",)))


def test_every_method_says_what_it_is() -> None:
    for method in METHODS.values():
        assert method.summary
        assert method.paper
