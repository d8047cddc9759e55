"""Joined products: the same model, read in fewer pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from luban.models import hf
from luban.nn.attention import Attention
from luban.nn.mlp import GatedMLP
from tests import tiny


def join(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Attention | GatedMLP):
            module.join()


@pytest.mark.parametrize("kind", [{}, {"model_type": "qwen2"}])
def test_a_joined_model_gives_the_logits_and_the_weights_it_gave(kind: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, tokens = tiny.llama(**kind), torch.randint(0, 384, (2, 9))
    expected, weights = model(tokens), {name: value.clone() for name, value in model.state_dict().items()}
    join(model)
    torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=1e-5)
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_joined_model_saves_and_loads_as_before(tmp_path: Path) -> None:
    model = tiny.llama()
    hf.save(model, tmp_path / "before")
    join(model)
    hf.save(model, tmp_path / "after")
    before, after = (hf.load(tmp_path / name).state_dict() for name in ("before", "after"))
    assert all(torch.equal(before[name], after[name]) for name in before)
