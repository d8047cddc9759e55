"""The smallest weights of each matrix are trained, all others stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from luban.nn.surgery import own_parameters
from luban.peft import files
from luban.peft.adapter import switched_off
from luban.peft.smallest import SmallestConfig, Sparse, apply
from luban.training.recompute import recompute_blocks
from tests import tiny
from tests.peft.learning import copied, loss_of, packed, train


def model_and_adapter(density: float = 0.1, **changes: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = tiny.llama()
    return model, apply(model, SmallestConfig(density=density, **changes))


def test_the_weights_of_least_magnitude_are_chosen() -> None:
    layer = torch.nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[0.5, -0.1, 3.0], [0.2, -4.0, 0.0]])
    part = Sparse(layer, SmallestConfig(density=0.5))
    assert part.indices.tolist() == [1, 3, 5]
    part.values.data = torch.tensor([1.0, 2.0, 3.0])
    expected = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 3.0]])
    assert torch.equal(part.delta(layer), expected)


def test_it_starts_as_the_model_and_trains_a_share_of_each_matrix() -> None:
    torch.manual_seed(0)
    expected = tiny.llama()(packed().tokens)
    model, adapter = model_and_adapter()
    assert torch.equal(model(packed().tokens), expected)
    matrices = [32 * 32, 32 * 16, 32 * 16, 32 * 32, 3 * [32 * 48]]
    sizes = [*matrices[:4], *matrices[4]] * 2
    assert sorted(value.numel() for value in adapter.trained().values()) == sorted(
        round(0.1 * size) for size in sizes
    )


def test_merged_after_training_with_weight_decay_the_others_are_equal_to_the_bit() -> None:
    model, adapter = model_and_adapter()
    before, first = copied(model), loss_of(model)
    train(adapter, steps=20, decay=5.0, rate=0.05)
    assert loss_of(model) < first - 0.2
    attached = model(packed().tokens)
    places = {f"{place}.weight": part.indices for place, (_, part) in adapter.parts().items()}
    adapter.merge(for_good=True)
    torch.testing.assert_close(model(packed().tokens), attached, atol=1e-5, rtol=1e-5)
    for name, value in own_parameters(model).items():
        moved = (value != before[name]).flatten().nonzero()[:, 0]
        assert torch.equal(moved.int(), places.get(name, moved[:0].int())), name


def test_switched_off_and_unmerged_it_is_the_model() -> None:
    model, adapter = model_and_adapter()
    expected = model(packed().tokens)
    train(adapter, steps=2)
    with switched_off(model):
        assert torch.equal(model(packed().tokens), expected)
    adapter.merge()
    adapter.unmerge()
    adapter.remove()
    assert torch.equal(model(packed().tokens), expected)


def test_it_learns_on_a_bfloat16_base_whose_blocks_are_recomputed() -> None:
    torch.manual_seed(0)
    model = tiny.llama().bfloat16()
    adapter = apply(model, SmallestConfig(density=0.2))
    recompute_blocks(model)
    first = loss_of(model)
    train(adapter, steps=20, rate=0.05)
    assert loss_of(model) < first - 0.2


def test_the_file_holds_values_and_places(tmp_path: Path) -> None:
    model, adapter = model_and_adapter(target_modules=("q", "down"))
    train(adapter, steps=2)
    files.save(adapter, tmp_path, names={})
    whole = sum(layer.weight.numel() * 4 for layer, _ in adapter.parts().values())
    assert (tmp_path / files.WEIGHTS).stat().st_size < 0.2 * whole + 2000  # 4 bytes a value, 4 a place, names
    torch.manual_seed(0)
    again = tiny.llama()
    files.load(again, tmp_path, names={})
    assert torch.equal(again(packed().tokens), model(packed().tokens))


@pytest.mark.parametrize("density", [1e-9, 1.0])
def test_at_least_one_weight_and_at_most_all_are_trained(density: float) -> None:
    _, adapter = model_and_adapter(density, target_modules=("q",))
    assert {value.numel() for value in adapter.trained().values()} == {1 if density < 1 else 32 * 32}
