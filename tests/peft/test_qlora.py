"""QLoRA: LoRA on a rounded base, which learns as LoRA does, is merged into floats and goes through `peft`'s files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.data.batch import Batch
from luban.errors import ConfigError
from luban.models import hf
from luban.nn.quantize import Nf4Linear, dequantise, is_quantised, quantise
from luban.nn.surgery import parts
from luban.peft import files
from luban.peft.adapter import switched_off
from luban.peft.qlora import Qlora, QloraConfig, apply
from luban.training.recompute import recompute_blocks
from luban.training.step import next_token
from tests import tiny
from tests.peft.learning import names_of, tokens


def model_and_adapter(**changes: Any) -> tuple[Any, Qlora]:
    torch.manual_seed(0)
    model = tiny.llama()
    return model, apply(model, QloraConfig(r=3, **changes))


def disturbed(**changes: Any) -> tuple[Any, Qlora]:
    model, adapter = model_and_adapter(**changes)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in adapter.trained().values():
            weight += 0.1 * torch.randn_like(weight)
    return model, adapter


def packed_batch() -> Batch:
    torch.manual_seed(4)
    documents = torch.tensor([[0] * 7 + [1] * 9, [0] * 16])
    ids = torch.randint(0, 12, (2, 17))
    positions = torch.tensor([[*range(7), *range(9)], [*range(16)]])
    inputs, targets = ids[:, :-1], ids[:, 1:]
    return Batch(
        tokens=inputs, targets=targets, positions=positions, documents=documents, ids=[], packed=True
    )


def test_it_starts_as_the_rounded_model_to_the_bit() -> None:
    torch.manual_seed(0)
    rounded = tiny.llama()
    quantise(rounded)
    model, _ = model_and_adapter()
    assert torch.equal(model(tokens()), rounded(tokens()))


def test_trained_weights_are_2_r_d_per_linear_layer_and_nothing_else() -> None:
    _, adapter = model_and_adapter()
    dim, kv, hidden, r, layers = 32, 16, 48, 3, 2
    attention = 2 * (dim + dim) + 2 * (dim + kv)
    assert sum(weight.numel() for weight in adapter.trained().values()) == layers * r * (
        attention + 3 * (dim + hidden)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recompute", [False, True])
def test_it_learns_packed_rows_and_moves_nothing_but_its_matrices(
    dtype: torch.dtype, recompute: bool
) -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    with torch.no_grad():
        model.head.weight *= 10  # a frozen head as small as at the start could say nothing
    adapter = apply(model.to(dtype), QloraConfig(r=4))
    if recompute:
        recompute_blocks(model)
    frozen = {name: value.clone() for name, value in model.state_dict().items() if "attached" not in name}
    started = {name: value.detach().clone() for name, value in adapter.trained().items()}
    losses = trained(model, adapter, packed_batch(), steps=20)
    assert losses[-1] < 0.7 * losses[0]
    assert all(not torch.equal(value, started[name]) for name, value in adapter.trained().items())
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in frozen.items())


def trained(model: Any, adapter: Qlora, batch: Batch, *, steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(adapter.trained().values(), lr=0.03)
    objective, losses = next_token(), []
    model.train()
    for _ in range(steps):
        step = objective(model, batch)
        loss = step.loss / step.targets
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_recomputed_blocks_give_the_same_gradients() -> None:
    gradients = []
    for recompute in (False, True):
        model, adapter = disturbed()
        if recompute:
            recompute_blocks(model)
        next_token()(model.train(), packed_batch()).loss.backward()
        gradients.append([weight.grad for weight in adapter.trained().values()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize("dora", [False, True])
def test_merged_is_a_plain_model_that_computes_the_same_and_unmerged_is_the_quantised_one(dora: bool) -> None:
    model, adapter = disturbed(use_dora=dora)
    attached = model(tokens())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    adapter.merge()
    assert not is_quantised(model)
    torch.testing.assert_close(model(tokens()), attached, atol=1e-5, rtol=1e-5)
    adapter.unmerge()
    assert torch.equal(model(tokens()), attached)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_merged_for_good_is_saved_and_read_as_any_model(tmp_path: Path) -> None:
    model, adapter = disturbed()
    attached = model(tokens())
    adapter.merge(for_good=True)
    assert not list(parts(model))
    hf.save(model, tmp_path / "merged")
    torch.testing.assert_close(hf.load(tmp_path / "merged")(tokens()), attached, atol=1e-5, rtol=1e-5)


def test_switched_off_or_removed_leaves_the_rounded_model() -> None:
    model, adapter = disturbed()
    with switched_off(model):
        rounded = model(tokens())
    assert not torch.equal(model(tokens()), rounded)
    adapter.remove()
    assert torch.equal(model(tokens()), rounded)


def test_a_second_adapter_shares_the_rounded_base() -> None:
    model, _ = model_and_adapter()
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, Nf4Linear)]
    apply(model, QloraConfig(r=2), name="second")
    assert [layer for layer in model.modules() if isinstance(layer, Nf4Linear)] == layers
    assert list(layers[0].attached) == ["default", "second"]


def test_a_pattern_that_means_no_layer_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    before = model(tokens())
    with pytest.raises(ConfigError, match="'qq' matches no layer"):
        apply(model, QloraConfig(target_modules=("qq",)))
    assert torch.equal(model(tokens()), before)
    assert not is_quantised(model)


def saved(folder: Path) -> tuple[Any, Qlora]:
    """An adapter in `folder/ours` of the base in `folder/base`."""
    torch.manual_seed(0)
    hf.save(tiny.llama(), folder / "base")
    model = hf.load(folder / "base")
    adapter = apply(model, QloraConfig(r=3, double_quant=False, target_modules=("q", "down")))
    with torch.no_grad():
        for weight in adapter.trained().values():
            weight += 0.1 * torch.randn_like(weight)
    files.save(adapter, folder / "ours", names=names_of(model), base=str(folder / "base"))
    return model, adapter


def test_an_adapter_folder_quantises_the_base_and_gives_the_logits_back(tmp_path: Path) -> None:
    model, _ = saved(tmp_path)
    again = hf.load(tmp_path / "base")
    adapter = files.load(again, tmp_path / "ours", names=names_of(again))
    assert isinstance(adapter, Qlora)
    assert not adapter.config.double_quant
    assert torch.equal(again(tokens()), model(tokens()))
    second = files.load(again, tmp_path / "ours", names=names_of(again), name="second")  # on the rounded base
    assert second.name == "second"


@pytest.mark.slow
def test_peft_computes_what_we_do_on_the_same_rounded_base_and_we_from_its(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, adapter = saved(tmp_path)
    expected = model(tokens())
    assert json.loads((tmp_path / "ours" / files.CONFIG).read_text("utf-8"))["peft_type"] == "LORA"
    adapter.remove()
    dequantise(model)
    hf.save(model, tmp_path / "rounded")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "rounded")
    oracle = PeftModel.from_pretrained(theirs, str(tmp_path / "ours"))
    torch.testing.assert_close(oracle(tokens()).logits, expected, atol=1e-5, rtol=1e-5)
    oracle.save_pretrained(str(tmp_path / "theirs"))
    again = hf.load(tmp_path / "rounded")
    files.load(again, tmp_path / "theirs", names=names_of(again))
    torch.testing.assert_close(again(tokens()), expected, atol=1e-5, rtol=1e-5)
