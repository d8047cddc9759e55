"""The stage `group-heads`: a folder in, a folder out that everything else reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from luban.errors import ModelError
from luban.models import hf
from luban.tokenizers.files import load
from luban.training.checkpoint import write_model_folder
from luban.tuning import group_heads
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    write_model_folder(tmp_path / "model", tiny.llama(kv_heads=4).bfloat16(), tiny.tokenizer())
    return tmp_path / "model"


@torch.no_grad()
def test_the_folder_holds_the_grouped_model_and_its_tokenizer(folder: Path) -> None:
    out = folder.parent / "grouped"
    group_heads.run(group_heads.Config(model=folder, kv_heads=1, out=out))
    model, tokens = hf.load(out), torch.arange(12)[None]
    assert (model.config.kv_heads, model.config.dtype) == (1, "float32")
    assert load(out).encode("builder") == load(folder).encode("builder")
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


def test_weights_keep_their_type(folder: Path) -> None:
    out = folder.parent / "grouped"
    group_heads.run(group_heads.Config(model=folder, kv_heads=2, out=out))
    assert hf.load(out, dtype="auto").embedding.weight.dtype == torch.bfloat16


def test_the_results_tell_what_was_saved(folder: Path) -> None:
    told = group_heads.run(group_heads.Config(model=folder, kv_heads=1, out=folder.parent / "grouped"))
    before, after = told["before"], told["after"]
    assert (before["kv_heads"], after["kv_heads"]) == (4, 1)
    assert before["parameters"] - after["parameters"] == 2 * 2 * 3 * 8 * 32  # layers, k and v, heads
    assert before["cache_bytes_per_token"] == 2 * 2 * 4 * 8 * 2  # layers, k and v, heads, width, bfloat16
    assert after["cache_bytes_per_token"] * 4 == before["cache_bytes_per_token"]


def test_nothing_is_left_behind_where_the_number_does_not_fit(folder: Path) -> None:
    out = folder.parent / "grouped"
    with pytest.raises(ModelError, match="4 key heads cannot become 3"):
        group_heads.run(group_heads.Config(model=folder, kv_heads=3, out=out))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]
