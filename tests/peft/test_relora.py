"""ReLoRA: merged changes add up, the optimizer forgets them, the learning rate falls and rises again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.errors import ConfigError, ModelError
from luban.nn.quantize import quantise
from luban.nn.surgery import own_parameters
from luban.peft import files, relora
from luban.peft.relora import ReLoraConfig
from tests import tiny
from tests.peft.learning import names_of, tokens
from tests.peft.test_lora import train


def applied(**changes: Any) -> tuple[Any, relora.ReLora]:
    torch.manual_seed(0)
    model = tiny.llama()
    settings = {"r": 1, "target_modules": ("q", "down"), "reset_every": 5, "rewarm_steps": 2}
    return model, relora.apply(model, ReLoraConfig(**(settings | changes)))


def test_the_rank_of_the_whole_change_grows_with_every_merge() -> None:
    model, adapter = applied()
    before = {name: value.clone() for name, value in own_parameters(model).items()}
    train(model, adapter, 15)  # merges after 5 and 10; the third change stays an adapter
    adapter.merge()
    for place in adapter.parts():
        change = model.get_submodule(place).weight - before[f"{place}.weight"]
        assert torch.linalg.matrix_rank(change, rtol=1e-4) == 3
    moved = {name for name, value in own_parameters(model).items() if not torch.equal(value, before[name])}
    assert moved == {f"{place}.weight" for place in adapter.parts()}


@pytest.mark.parametrize("dora", [False, True])
def test_a_reset_changes_nothing_that_the_model_computes(dora: bool) -> None:
    model, adapter = applied(use_dora=dora, reset_every=50)
    optimizer = torch.optim.AdamW(adapter.trained().values())
    train(model, adapter, 4)
    before = model(tokens())
    adapter.reset(optimizer)
    torch.testing.assert_close(model(tokens()), before, atol=1e-5, rtol=1e-5)
    assert all(not part.b.any() for part in adapter.lora().values())


def test_a_merge_keeps_only_the_largest_moments_of_the_adapter() -> None:
    model, adapter = applied(prune=0.75, r=2)
    weights = list(adapter.trained().values())
    optimizer = torch.optim.AdamW(weights, lr=0.01)
    model(tokens()).square().mean().backward()
    optimizer.step()
    first = {weight: optimizer.state[weight]["exp_avg"].clone() for weight in weights}
    adapter.after_step(5, 10, optimizer)
    for weight in weights:
        kept = optimizer.state[weight]["exp_avg"]
        assert int((kept == 0).sum()) >= int(0.75 * weight.numel())
        assert kept.abs().max() == first[weight].abs().max()
        assert not optimizer.state[weight]["exp_avg_sq"][kept == 0].any()


def test_the_learning_rate_is_jagged() -> None:
    _, adapter = applied(reset_every=4, rewarm_steps=2)
    assert [adapter.rate_factor(step, 12) for step in range(1, 13)] == [
        1,
        1,
        1,
        1,
        0.5,
        1,
        1,
        1,
        0.5,
        1,
        1,
        1,
    ]


def test_the_last_step_of_a_run_does_not_merge() -> None:
    model, adapter = applied()
    before = {name: value.clone() for name, value in own_parameters(model).items()}
    train(model, adapter, 5)
    assert all(torch.equal(value, before[name]) for name, value in own_parameters(model).items())


def test_an_embedding_that_the_head_shares_is_refused_and_left_as_it_was() -> None:
    model = tiny.llama(tied=True)
    with pytest.raises(ConfigError, match="the head's too"):
        relora.apply(model, ReLoraConfig(target_modules=("embedding",)))
    assert list(model.state_dict()) == list(tiny.llama(tied=True).state_dict())


def test_its_file_goes_with_the_weights_it_has_merged_and_with_no_others(tmp_path: Path) -> None:
    model, adapter = applied()
    before = {name: value.clone() for name, value in own_parameters(model).items()}
    train(model, adapter, 8)
    expected = model(tokens())
    files.save(adapter, tmp_path, names=names_of(model))
    again = tiny.llama()
    again.load_state_dict(own_parameters(model))
    assert files.load(again, tmp_path, names=names_of(again)).config == dataclasses.replace(
        adapter.config, target_modules=tuple(adapter.parts())
    )
    assert torch.equal(again(tokens()), expected)
    other = tiny.llama()
    other.load_state_dict(before)
    with pytest.raises(ModelError, match="trained on another model"):
        files.load(other, tmp_path, names=names_of(other))


def test_a_quantised_model_is_refused() -> None:
    model = tiny.llama()
    quantise(model)
    with pytest.raises(ConfigError, match="which are quantised here"):
        relora.apply(model, ReLoraConfig())


def test_a_warm_up_as_long_as_the_stretch_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves nothing of the 5 steps"):
        ReLoraConfig(reset_every=5, rewarm_steps=5)
