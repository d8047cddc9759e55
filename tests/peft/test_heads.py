"""A head for a task in an adapter's folder: it opens here and in `peft` with equal logits, whoever wrote it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import logging

from luban.errors import ModelError
from luban.models import FAMILIES, hf
from luban.models.base import Shape
from luban.models.classifier import Classifier
from luban.nn.linear import Linear
from luban.nn.surgery import parts
from luban.peft import files
from luban.peft.opening import layer_names, open_model
from luban.tuning.adapted_head import AdaptedHead, adapted_head
from tests import tiny

LABELS = ("bad", "fair", "good")
TOKENS = torch.arange(2, 11)[None]


def roberta() -> Any:
    return hf.build(
        FAMILIES["roberta"].config.sized(
            Shape(model_type="roberta", vocab=60, context=24, dim=32, layers=2, pad_id=0)
        )
    )


def saved(folder: Path, family: Callable[[], Any], peft: dict[str, Any]) -> tuple[Classifier, AdaptedHead]:
    """A base in `folder/base` and on it, in `folder/ours`, an adapter and a head whose weights mean something."""
    torch.manual_seed(0)
    hf.save(family(), folder / "base")
    backbone = hf.load(folder / "base")
    if getattr(backbone, "pooler", 0) is None:
        backbone.pooler = Linear(backbone.config.dim, backbone.config.dim)
    model = Classifier(backbone, LABELS)
    learner = adapted_head(model, peft, base=folder / "base")
    assert learner is not None
    with torch.no_grad():
        for weight in learner.adapter.trained().values():
            weight += 0.1 * torch.randn_like(weight)
    base = str(folder / "base")
    files.save(learner.adapter, folder / "ours", names=layer_names(model), base=base)
    return model.eval(), learner


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS)


@pytest.mark.parametrize("method", ["lora", "qlora", "adalora", "ia3", "bottleneck"])
def test_a_folder_opens_with_its_head_and_labels(method: str, tmp_path: Path) -> None:
    model, _ = saved(tmp_path, tiny.llama, {"method": method})
    again = open_model(tmp_path / "ours")
    assert again.config.labels == LABELS
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(("method", "plain"), [("lora", True), ("qlora", True), ("bottleneck", False)])
def test_merged_on_opening_it_is_a_plain_model_where_a_weight_can_hold_it(
    method: str, plain: bool, tmp_path: Path
) -> None:
    model, _ = saved(tmp_path, tiny.llama, {"method": method})
    merged = open_model(tmp_path / "ours", merge=True)
    assert (not list(parts(merged))) == plain
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-5, rtol=1e-5)


def test_of_an_encoder_without_a_pooler_the_new_one_is_kept(tmp_path: Path) -> None:
    model, _ = saved(tmp_path, roberta, {"method": "lora"})
    assert torch.equal(logits(open_model(tmp_path / "ours")), logits(model))


def test_only_the_head_and_the_adapter_are_in_the_file(tmp_path: Path) -> None:
    model, learner = saved(tmp_path, tiny.llama, {"method": "lora", "r": 2, "target_modules": "q"})
    dim, layers = model.config.dim, len(model.blocks)
    assert learner.file_bytes()["final_bytes"] == 4 * (layers * 2 * 2 * dim + len(LABELS) * dim)
    told = json.loads((tmp_path / "ours" / files.CONFIG).read_text("utf-8"))
    assert (told["task_type"], told["modules_to_save"]) == ("SEQ_CLS", ["score"])


def test_a_model_without_a_place_for_the_head_is_told(tmp_path: Path) -> None:
    saved(tmp_path, tiny.llama, {"method": "lora"})
    words = hf.load(tmp_path / "base")
    with pytest.raises(ModelError, match="has a head for a task, and the model has no place for it"):
        files.load(words, tmp_path / "ours", names=layer_names(words))
    other = Classifier(hf.load(tmp_path / "base"), 2)
    with pytest.raises(ModelError, match="the head's 'score'"):
        files.load(other, tmp_path / "ours", names=layer_names(other))


def test_a_head_does_not_hide_that_the_base_is_another(tmp_path: Path) -> None:
    saved(tmp_path, tiny.llama, {"method": "lora"})
    torch.manual_seed(5)
    hf.save(tiny.llama(), tmp_path / "base")
    with pytest.raises(ModelError, match="trained on another model"):
        open_model(tmp_path / "ours")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method"),
    [
        (tiny.llama, "lora"),
        (tiny.llama, "adalora"),
        (tiny.gpt2, "lora"),
        (tiny.gpt2, "ia3"),
        (tiny.bert, "lora"),
        (roberta, "lora"),
    ],
)
def test_peft_opens_our_folder_with_equal_logits_and_we_open_its(
    family: Callable[[], Any], method: str, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForSequenceClassification

    logging.set_verbosity_error()
    model, _ = saved(tmp_path, family, {"method": method})
    oracle = AutoPeftModelForSequenceClassification.from_pretrained(
        str(tmp_path / "ours"), num_labels=len(LABELS)
    )
    oracle.base_model.model.config.pad_token_id = 0
    with torch.no_grad():
        theirs = oracle.eval()(input_ids=TOKENS).logits
    torch.testing.assert_close(theirs, logits(model), atol=1e-5, rtol=1e-5)
    oracle.save_pretrained(str(tmp_path / "theirs"))
    again = open_model(tmp_path / "theirs")
    torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=1e-5)
    assert again.config.labels == ("LABEL_0", "LABEL_1", "LABEL_2")  # peft keeps no names
