"""LoRA-FA: A stays, B learns, and little is kept for the gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luban.errors import ConfigError
from luban.models import hf
from luban.nn.surgery import own_parameters
from luban.peft import files, lora, lora_fa
from tests import tiny
from tests.peft.learning import names_of, tokens
from tests.peft.test_lora import train


def kept_bytes(method: Any, config: Any) -> int:
    """What a forward pass keeps of activations for the gradient: saved tensors that are no parameters."""
    torch.manual_seed(0)
    model = tiny.llama()
    method.apply(model, config)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(tokens()).square().sum()
    assert loss.requires_grad
    return sum(kept.values())


def test_only_b_is_trained_r_numbers_for_each_output() -> None:
    torch.manual_seed(0)
    adapter = lora_fa.apply(tiny.llama(), lora_fa.LoraFaConfig(r=3, target_modules=("q", "v", "down")))
    assert sum(p.numel() for p in adapter.trained().values()) == 2 * 3 * (32 + 16 + 32)
    assert all(name.endswith(".b") for name in adapter.trained())


def test_the_input_of_a_layer_is_not_kept() -> None:
    targets = ("down",)
    plain = kept_bytes(lora, lora.LoraConfig(r=3, target_modules=targets))
    frozen = kept_bytes(lora_fa, lora_fa.LoraFaConfig(r=3, target_modules=targets))
    layers, positions, hidden, r, size = 2, 2 * 9, 48, 3, 4
    assert plain - frozen == layers * positions * (hidden - r) * size  # A x is kept in its place


def test_gradients_of_b_are_those_of_lora() -> None:
    gradients = []
    for method, config in ((lora, lora.LoraConfig(r=3)), (lora_fa, lora_fa.LoraFaConfig(r=3))):
        torch.manual_seed(0)
        model = tiny.llama()
        adapter: Any = method.apply(model, config)
        model(tokens()).square().sum().backward()
        gradients.append(torch.cat([part.b.grad.flatten() for part in adapter.lora().values()]))
    assert torch.equal(*gradients)


def test_what_is_learnt_is_plain_lora_in_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    hf.save(model, tmp_path / "base")
    adapter = lora_fa.apply(model, lora_fa.LoraFaConfig(r=3))
    train(model, adapter, 3)
    files.save(adapter, tmp_path / "adapter", names=names_of(model))
    again = hf.load(tmp_path / "base")
    assert files.load(again, tmp_path / "adapter", names=names_of(again)).method == "lora"
    assert torch.equal(again.eval()(tokens()), model.eval()(tokens()))


def test_an_embedding_is_refused_and_the_model_left_as_it_was() -> None:
    model = tiny.llama()
    with pytest.raises(ConfigError, match="'embedding' matches no layer"):
        lora_fa.apply(model, lora_fa.LoraFaConfig(target_modules=("q", "embedding")))
    assert all(p.requires_grad for p in own_parameters(model).values())
