"""Bottleneck adapters: two thin layers after, or beside, what a block computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from luban.errors import ConfigError
from luban.nn import surgery
from luban.peft import files
from luban.peft.adapter import switched_off
from luban.peft.bottleneck import BottleneckConfig, apply
from luban.training.recompute import recompute_blocks
from tests import tiny
from tests.peft.learning import copied, loss_of, packed, train, unchanged


def model_and_adapter(family: Any = tiny.llama, **changes: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = family()
    return model, apply(model, BottleneckConfig(r=4, **changes))


def plain(family: Any = tiny.llama) -> Any:
    torch.manual_seed(0)
    return family()


@pytest.mark.parametrize("family", [tiny.llama, tiny.gpt2, tiny.bloom])
def test_a_sequential_adapter_starts_near_the_model_and_a_parallel_one_as_it(family: Any) -> None:
    tokens = packed().tokens
    expected = plain(family)(tokens)
    model, adapter = model_and_adapter(family)
    assert 0 < (model(tokens) - expected).abs().max() < 1e-3
    adapter.remove()
    assert torch.equal(model(tokens), expected)
    model, _ = model_and_adapter(family, kind="parallel")
    assert torch.equal(model(tokens), expected)


def test_an_adapter_has_2_r_d_plus_r_plus_d_weights() -> None:
    _, adapter = model_and_adapter()
    r, d, adapters = 4, 32, 2 * 2
    trained = adapter.trained()
    assert sum(weight.numel() for weight in trained.values()) == adapters * (2 * r * d + r + d)
    assert all(".attached.default." in name for name in trained)


def test_what_an_adapter_adds_is_the_formula() -> None:
    x = torch.randn(2, 3, 32)
    for kind in ("sequential", "parallel"):
        model, adapter = model_and_adapter(kind=kind, scale=4.0, target_modules=("mlp",))
        layer, part = adapter.parts()["blocks.1.mlp"]
        torch.nn.init.normal_(part.up.weight)
        torch.nn.init.normal_(part.down.bias)
        with switched_off(model):
            y = layer(x)
        read = y if kind == "sequential" else x
        bent = (read @ part.down.weight.T + part.down.bias).clamp(min=0)
        expected = y + 4.0 * (bent @ part.up.weight.T + part.up.bias)
        torch.testing.assert_close(layer(x), expected)
        with surgery.shared(model, {"default": 0.5}):
            torch.testing.assert_close(layer(x), (y + expected) / 2)


@pytest.mark.parametrize("kind", ["sequential", "parallel"])
def test_only_the_adapters_learn(kind: str) -> None:
    model, adapter = model_and_adapter(kind=kind)
    before, first = copied(model), loss_of(model)
    train(adapter, steps=20, rate=0.05)
    assert loss_of(model) < first - 0.1
    assert unchanged(model, before)


def test_a_recomputed_pass_gives_the_same_gradients() -> None:
    model, adapter = model_and_adapter()
    model(packed().tokens).logsumexp(-1).sum().backward()
    expected = {name: value.grad.clone() for name, value in adapter.trained().items()}
    model.zero_grad()
    recompute_blocks(model.train())
    model(packed().tokens).logsumexp(-1).sum().backward()
    for name, value in adapter.trained().items():
        torch.testing.assert_close(value.grad, expected[name])
        assert value.grad.norm() > 0


def test_a_bfloat16_base_keeps_its_type_and_the_adapters_theirs() -> None:
    torch.manual_seed(0)
    adapter = apply(tiny.llama().bfloat16(), BottleneckConfig(r=4))
    assert {value.dtype for value in adapter.trained().values()} == {torch.float32}
    first = loss_of(adapter.model)
    train(adapter, steps=20, rate=0.05)
    assert adapter.model(packed().tokens).dtype == torch.bfloat16
    assert loss_of(adapter.model) < first - 0.1


def test_merging_is_refused() -> None:
    _, adapter = model_and_adapter()
    with pytest.raises(ConfigError, match="bottleneck computes what no single weight does"):
        adapter.merge()


def test_a_module_that_turns_no_states_into_states_is_refused_and_nothing_changed() -> None:
    model = plain()
    for wrong in ("blocks", "embedding"):
        with pytest.raises(ConfigError, match="turns no states into states"):
            apply(model, BottleneckConfig(target_modules=("mlp", wrong)))
    assert not list(surgery.parts(model))
    assert all(value.requires_grad for value in model.parameters())


def test_a_saved_adapter_computes_the_same_when_loaded(tmp_path: Path) -> None:
    model, adapter = model_and_adapter(kind="parallel", activation="gelu", scale=2.0)
    train(adapter, steps=2)
    files.save(adapter, tmp_path, names={}, base="here")
    again = plain()
    loaded = files.load(again, tmp_path, names={})
    assert loaded.config == BottleneckConfig(
        r=4, kind="parallel", activation="gelu", scale=2.0, target_modules=loaded.config.target_modules
    )
    assert torch.equal(again(packed().tokens), model(packed().tokens))


@pytest.mark.slow
def test_peft_refuses_the_file_by_its_type(tmp_path: Path) -> None:
    from peft import PeftConfig

    files.save(model_and_adapter()[1], tmp_path, names={})
    with pytest.raises((KeyError, ValueError), match="LUBAN_BOTTLENECK"):
        PeftConfig.from_pretrained(str(tmp_path))
