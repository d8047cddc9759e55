"""Child-tuning: random and chosen parts of the network."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from luban.errors import CheckpointError, ConfigError
from luban.nn.surgery import own_parameters
from luban.peft import files
from luban.peft.child import ChildTuningConfig, apply, fisher, largest
from luban.training.step import next_token
from tests import tiny
from tests.peft.learning import copied, loss_of, packed, train


@dataclass(frozen=True)
class Summed:
    loss: Tensor


def model_and_adapter(**changes: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = tiny.llama()
    return model, apply(model, ChildTuningConfig(**changes))


def after_one_backward(adapter: Any) -> dict[str, Tensor]:
    adapter.model.zero_grad()
    next_token()(adapter.model, packed()).loss.backward()
    plain = {name: value.grad.clone() for name, value in adapter.trained().items()}
    adapter.after_backward()
    return plain


def test_fisher_information_is_the_mean_squared_gradient() -> None:
    layer = nn.Linear(2, 1, bias=False)
    rows = [torch.tensor([1.0, 3.0]), torch.tensor([2.0, 0.0])]
    found = fisher(layer, rows, lambda model, row: Summed(model(row).sum()))  # the gradient is the row
    assert found["weight"].tolist() == [[(1 + 4) / 2, 9 / 2]]
    with pytest.raises(ConfigError, match="no batch"):
        fisher(layer, [], lambda model, row: Summed(model(row).sum()))


def test_the_largest_scores_are_taken_over_all_weights_together() -> None:
    scores = {"a": torch.tensor([[1.0, 9.0], [0.0, 8.0]]), "b": torch.tensor([7.0, 2.0])}
    assert {name: mask.tolist() for name, mask in largest(scores, 0.5).items()} == {
        "a": [[False, True], [False, True]],
        "b": [True, False],
    }
    equal = {"a": torch.tensor([0.0, 5.0, 0.0, 0.0])}
    assert largest(equal, 0.5)["a"].tolist() == [True, True, False, False]


def test_f_keeps_a_share_p_of_the_gradients_and_scales_them() -> None:
    _, adapter = model_and_adapter(p=0.25)
    plain = after_one_backward(adapter)
    kept, total = 0, 0
    for name, value in adapter.trained().items():
        left = value.grad != 0
        torch.testing.assert_close(value.grad[left], plain[name][left] / 0.25)
        kept, total = kept + int(left.sum()), total + int((plain[name] != 0).sum())
    assert abs(kept / total - 0.25) < 5 * (0.25 * 0.75 / total) ** 0.5


def test_f_draws_anew_in_each_step_and_the_same_after_a_resume() -> None:
    _, adapter = model_and_adapter()

    def child() -> Tensor:
        after_one_backward(adapter)
        return adapter.model.blocks[0].mlp.up.weight.grad != 0

    first = child()
    state = adapter.state()
    second = child()
    assert not torch.equal(first, second)
    child()
    adapter.restore(state)
    assert torch.equal(child(), second)


def test_f_learns() -> None:
    model, adapter = model_and_adapter()
    first = loss_of(model)
    train(adapter, steps=20)
    assert loss_of(model) < first - 0.5


def test_d_moves_the_share_p_with_most_information_and_nothing_else_despite_weight_decay() -> None:
    model, adapter = model_and_adapter(kind="D", p=0.1)
    before, first = copied(model), loss_of(model)
    train(adapter, steps=20, decay=5.0)
    assert loss_of(model) < first - 0.2
    total = sum(value.numel() for value in before.values())
    assert sum(int(mask.sum()) for mask in adapter.masks.values()) == round(0.1 * total)
    for name, value in own_parameters(model).items():
        assert torch.equal(value[~adapter.masks[name]], before[name][~adapter.masks[name]])
    adapter.remove()
    assert all(torch.equal(value, before[name]) for name, value in own_parameters(model).items())


def test_d_without_data_is_refused_and_so_is_a_resume_on_other_data() -> None:
    _, adapter = model_and_adapter(kind="D")
    with pytest.raises(ConfigError, match="data has to choose"):
        after_one_backward(adapter)
    adapter.before_training([packed()], next_token())
    state = adapter.state()
    adapter.restore(state)
    other = dataclasses.replace(packed(), targets=packed().targets.roll(1, 0))
    adapter.before_training([other], next_token())
    with pytest.raises(CheckpointError, match="another child"):
        adapter.restore(state)


def test_a_model_that_another_method_has_frozen_is_refused() -> None:
    model, adapter = model_and_adapter()
    adapter.remove()
    with pytest.raises(ConfigError, match="nothing is left to train"):
        apply(model, ChildTuningConfig())


def test_it_is_saved_with_all_its_weights_and_loaded_onto_the_old_model(tmp_path: Path) -> None:
    model, adapter = model_and_adapter(kind="D", p=0.5, seed=4)
    train(adapter, steps=2)
    files.save(adapter, tmp_path, names={})
    torch.manual_seed(0)
    again = tiny.llama()
    assert files.load(again, tmp_path, names={}).config == adapter.config
    assert torch.equal(again(packed().tokens), model(packed().tokens))


def test_a_step_on_bfloat16_weights() -> None:
    torch.manual_seed(0)
    for kind in ("F", "D"):
        model = tiny.llama().bfloat16()
        adapter = apply(model, ChildTuningConfig(kind=kind))
        first = loss_of(model)
        train(adapter, steps=20)
        assert loss_of(model) < first
