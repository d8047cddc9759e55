"""IncreLoRA: ranks grow to a budget, where they matter; what is learnt is plain LoRA in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.errors import ConfigError
from luban.models import hf
from luban.peft import files, increlora
from luban.peft.increlora import EARLY, IncreLora, IncreLoraConfig
from tests import tiny
from tests.peft.learning import disturb, names_of, tokens
from tests.peft.test_lora import train

LAYERS = 4  # q and down of two blocks


def applied(model: Any = None, **changes: Any) -> tuple[Any, IncreLora]:
    torch.manual_seed(0)
    model = model or tiny.llama()
    settings: dict[str, Any] = {"target_r": 3, "target_modules": ("q", "down"), "tfinal": 5}
    return model, increlora.apply(model, IncreLoraConfig(**(settings | changes)))


def test_it_starts_as_the_model_and_in_training_no_further_than_the_advance() -> None:
    torch.manual_seed(0)
    expected = tiny.llama()(tokens())
    model, _ = applied()
    assert torch.equal(model.eval()(tokens()), expected)
    torch.testing.assert_close(model.train()(tokens()), expected, atol=1e-5, rtol=0)


def test_ranks_grow_from_one_each_to_a_sum_that_is_the_budget() -> None:
    model, adapter = applied()
    assert set(adapter.ranks().values()) == {1}
    sums = []
    for steps in range(1, 21):
        adapter.after_step(steps, 20, torch.optim.SGD(adapter.trained().values()))
        sums.append(sum(adapter.ranks().values()))
    assert sums == sorted(sums)
    assert sums[14:] == [3 * LAYERS] * 6  # the last 5 steps, and the one before
    assert sums[7] == LAYERS + int(8 / 15 * 2 * LAYERS)
    assert max(adapter.ranks().values()) <= 6
    assert len(adapter.trained()) == 3 * LAYERS
    assert sum(p.numel() for p in adapter.trained().values()) == 2 * 6 * ((32 + 32 + 1) + (48 + 32 + 1))
    assert model is adapter.model


def test_the_layer_that_is_felt_most_grows_first() -> None:
    _, adapter = applied()
    chosen = adapter.growing()["blocks.1.attention.q"]
    for part in adapter.growing().values():
        part.sensitivity = part.uncertainty = 2.0 if part is chosen else 1.0
    adapter.after_step(4, 20, torch.optim.SGD(adapter.trained().values()))  # 4 + int(4 / 15 * 8) = 6
    assert adapter.ranks() == {
        "blocks.0.attention.q": 2, "blocks.0.mlp.down": 1, "blocks.1.attention.q": 2, "blocks.1.mlp.down": 1,
    }  # fmt: skip


def test_the_score_is_what_the_loss_feels_by_hand() -> None:
    _, adapter = applied()
    part = adapter.growing()["blocks.0.attention.q"]
    with torch.no_grad():
        part.e[0], part.e.grad = 2.0, torch.full_like(part.e, -3.0)
        part.a[0], part.a.grad = 0.5, torch.full_like(part.a, 4.0)
        part.b[:, 0], part.b.grad = -1.0, torch.full_like(part.b, 1.0)
    assert part.felt() == pytest.approx(6.0 + 2.0 + 1.0)
    adapter.after_backward()
    assert part.sensitivity == pytest.approx(0.15 * 9)
    assert part.uncertainty == pytest.approx(0.15 * (9 - 0.15 * 9))


def test_a_new_rank_begins_as_it_learnt_in_advance() -> None:
    _, adapter = applied()
    disturb(adapter)
    part = adapter.growing()["blocks.0.attention.q"]
    before, expected = part.ranks, part.product().detach()
    part.grow()
    assert part.e[before] == EARLY
    part.advance = False
    torch.testing.assert_close(part.product(), expected, atol=1e-12, rtol=1e-6)


def test_a_resumed_run_goes_on_as_one_that_was_not_stopped() -> None:
    model, adapter = applied()
    train(model, adapter, 6)
    state, weights = json.loads(json.dumps(adapter.state())), model.state_dict()
    again, resumed = applied()
    again.load_state_dict(weights)
    resumed.restore(state)
    assert resumed.ranks() == adapter.ranks()
    assert torch.equal(again.train()(tokens()), model.train()(tokens()))
    assert resumed.state() == state


@pytest.mark.slow
@pytest.mark.parametrize("family", [tiny.llama, tiny.gpt2])
def test_peft_computes_what_was_learnt_and_so_do_we(tmp_path: Path, family: Any) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = family()
    hf.save(base, tmp_path / "base")
    model, adapter = applied(base, target_modules=("q", "v", "down"))
    train(model, adapter, 10)
    assert len(set(adapter.ranks().values())) > 1
    expected = model.eval()(tokens())
    files.save(adapter, tmp_path / "ours", names=names_of(model))
    oracle = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), str(tmp_path / "ours")
    )
    torch.testing.assert_close(oracle(tokens()).logits, expected, atol=1e-5, rtol=1e-5)
    again = hf.load(tmp_path / "base")
    files.load(again, tmp_path / "ours", names=names_of(again))
    torch.testing.assert_close(again(tokens()), expected, atol=1e-5, rtol=1e-5)
    adapter.merge()
    torch.testing.assert_close(model(tokens()), expected, atol=1e-5, rtol=1e-5)


def test_settings_that_cannot_grow_are_refused() -> None:
    with pytest.raises(ConfigError, match="init_r 4, target_r 3 and max_r 6 must not fall"):
        IncreLoraConfig(init_r=4, target_r=3)
    _, adapter = applied(tinit=15)
    with pytest.raises(ConfigError, match="leave no step of 20"):
        adapter.after_step(1, 20, torch.optim.SGD(adapter.trained().values()))
