"""Adapter folders: what is trained here loads in `peft` with equal logits, and the other way round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from luban.errors import ModelError
from luban.models import FAMILIES, hf
from luban.models.names import module_names
from luban.nn.surgery import own_parameters
from luban.peft import files
from luban.peft.lora import LoraConfig, apply
from tests import tiny


def names_of(model: Any) -> dict[str, str]:
    return module_names(FAMILIES[model.config.model_type].names, own_parameters(model))


def tokens() -> Tensor:
    return torch.randint(0, 384, (2, 9), generator=torch.Generator().manual_seed(1))


def trained(folder: Path, **changes: Any) -> tuple[Any, Any]:
    """A base in `folder` with an adapter whose weights all mean something."""
    torch.manual_seed(0)
    model = tiny.llama()
    hf.save(model, folder)
    adapter = apply(model, LoraConfig(r=3, **changes))
    with torch.no_grad():
        for weight in adapter.trained().values():
            weight += 0.1 * torch.randn_like(weight)
    return model, adapter


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"target_modules": ("q", "down", "embedding")}, {"use_dora": True}, {"use_rslora": True}],
    ids=str,
)
def test_peft_computes_what_we_do_from_our_adapter_and_we_from_its(tmp_path: Path, changes: Any) -> None:
    from peft import PeftModel

    model, adapter = trained(tmp_path / "base", **changes)
    expected = model(tokens())
    files.save(adapter, tmp_path / "ours", names=names_of(model), base=str(tmp_path / "base"))
    oracle = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), str(tmp_path / "ours")
    )
    torch.testing.assert_close(oracle(tokens()).logits, expected, atol=1e-5, rtol=1e-5)
    oracle.save_pretrained(str(tmp_path / "theirs"))
    again = hf.load(tmp_path / "base")
    files.load(again, tmp_path / "theirs", names=names_of(again))
    torch.testing.assert_close(again(tokens()), expected, atol=1e-5, rtol=1e-5)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    model, adapter = trained(tmp_path / "base")
    files.save(adapter, tmp_path / "ours", names=names_of(model), base="somewhere")
    torch.manual_seed(5)
    other = tiny.llama()
    with pytest.raises(ModelError, match=r"trained on another model(.|\n)*somewhere"):
        files.load(other, tmp_path / "ours", names=names_of(other))


def test_an_entry_that_changes_something_unknown_is_refused(tmp_path: Path) -> None:
    model, adapter = trained(tmp_path / "base")
    files.save(adapter, tmp_path / "ours", names=names_of(model))
    path = tmp_path / "ours" / files.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"lora_bias": True}), encoding="utf-8")
    again = hf.load(tmp_path / "base")
    with pytest.raises(ModelError, match="'lora_bias' is True"):
        files.load(again, tmp_path / "ours", names=names_of(again))
