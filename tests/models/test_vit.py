"""Our ViT against `transformers`', what of a folder is refused, and that it learns to read digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from luban.errors import ModelError, PromptError
from luban.models import hf
from luban.models.base import Shape
from luban.models.vit import ViT, ViTConfig
from tests.models.encoders import Weights, assert_same, changed_folder, clean_load, encoder, put, without

CLASSIFIER, ENCODER = "ViTForImageClassification", "ViTModel"


def images_of(batch: int, size: int = 8) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_states_and_pooled_state_equal_transformers() -> None:
    theirs, folder = encoder(ENCODER)
    model, expected = hf.load(folder), theirs(images_of(2))
    states = model.hidden(images_of(2))
    assert_same(states, expected.last_hidden_state)
    assert_same(model.pooled(states), expected.pooler_output)


@torch.no_grad()
@pytest.mark.parametrize(
    "changes", [{}, {"num_labels": 3}, {"qkv_bias": False}, {"num_channels": 1}], ids=str
)
def test_logits_of_labels_equal_transformers(changes: dict[str, Any]) -> None:
    theirs, folder = encoder(CLASSIFIER, **changes)
    images = images_of(2)[:, : changes.get("num_channels", 3)]
    assert_same(hf.load(folder)(images), theirs(images).logits)


@torch.no_grad()
def test_an_image_in_a_batch_is_read_as_if_alone() -> None:
    model = hf.load(encoder(CLASSIFIER)[1])
    alone = torch.cat([model(image[None]) for image in images_of(3)])
    torch.testing.assert_close(model(images_of(3)), alone, atol=1e-5, rtol=0)


def test_gradients_equal_transformers() -> None:
    theirs, folder = encoder(CLASSIFIER)
    model, images = hf.load(folder), images_of(2)
    model(images).logsumexp(-1).sum().backward()
    theirs.zero_grad()
    theirs(images).logits.logsumexp(-1).sum().backward()
    expected = theirs.vit.embeddings.patch_embeddings.projection.weight.grad
    torch.testing.assert_close(model.patches.weight.grad, expected, atol=1e-3, rtol=1e-3)
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


@torch.no_grad()
@pytest.mark.parametrize("architecture", [CLASSIFIER, ENCODER])
def test_what_we_save_transformers_loads_with_the_same_results(architecture: str, tmp_path: Path) -> None:
    original, folder = encoder(architecture)
    model = hf.load(folder)
    hf.save(model, tmp_path)
    theirs = clean_load(architecture, tmp_path)
    for ours, expected in zip(
        theirs(images_of(2)).to_tuple(), original(images_of(2)).to_tuple(), strict=True
    ):
        assert_same(ours, expected)
    again = hf.load(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_labels_keep_their_names_and_order(tmp_path: Path) -> None:
    labels = ("owl", "ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay")
    numbers: dict[str, Any] = {"dim": 16, "layers": 1, "heads": 2, "image_size": 8, "patch_size": 4}
    hf.save(ViT(ViTConfig(labels=labels, **numbers)), tmp_path)
    assert hf.load_config(tmp_path).labels == labels
    assert clean_load(CLASSIFIER, tmp_path).config.id2label[9] == "ibis"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("vit.embeddings.cls_token"), r"weight 'vit\.embeddings\.cls_token' is missing"),
        (
            put("vit.embeddings.mask_token", 1, 1, 32),
            r"unknown weight 'vit\.embeddings\.mask_token'",
        ),
        (put("classifier.weight", 2, 31), r"'classifier\.weight' has shape \[2, 31\]"),
    ],
)
def test_a_weight_that_does_not_fit_is_named(
    change: Callable[[Weights], object], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=told):
        hf.load(changed_folder(tmp_path, CLASSIFIER, change))


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"image_size": 10}, "image_size 10 is not a multiple of patch_size 4"),
        ({"image_size": [8, 16]}, "image_size"),
        ({"pooler_act": "relu"}, "'pooler_act' is 'relu'"),
        ({"pooler_output_size": 7}, "'pooler_output_size' is 7; supported: 32"),
        ({"architectures": ["ViTForMaskedImageModeling"]}, "architecture 'ViTForMaskedImageModeling'"),
        ({"id2label": {"0": "cat", "2": "dog"}}, "not a name for each of 0, 1"),
        (
            {"image_size": 16},
            r"position_embeddings' has shape \[1, 5, 32\], config.json makes it \[1, 17, 32\]",
        ),
    ],
)
def test_a_config_we_do_not_compute_with_is_refused(
    entries: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=told):
        hf.load(changed_folder(tmp_path, CLASSIFIER, **entries))


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(PromptError, match="images of 3 x 12 x 12; the model reads 3 x 8 x 8"):
        hf.load(encoder(CLASSIFIER)[1])(images_of(1, 12))


def test_a_part_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match="no classifier"):
        hf.load(encoder(ENCODER)[1])(images_of(1))
    classifier = hf.load(encoder(CLASSIFIER)[1])
    with pytest.raises(ModelError, match="no pooler"):
        classifier.pooled(classifier.hidden(images_of(1)))


def test_a_shape_makes_an_encoder_of_photographs() -> None:
    config = ViTConfig.sized(Shape(model_type="vit", vocab=9, context=9, dim=128, layers=1))
    assert (config.heads, config.hidden, config.context, config.labels) == (2, 512, 197, ())
    assert ViTConfig.from_hf(config.to_hf()) == config


@pytest.mark.slow
def test_it_learns_to_read_handwritten_digits() -> None:
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    data: Any = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    held_out = torch.arange(len(labels)) % 5 == 0
    numbers: dict[str, Any] = {
        "dim": 32,
        "layers": 2,
        "heads": 4,
        "image_size": 8,
        "patch_size": 2,
        "channels": 1,
    }
    model = ViT(ViTConfig(labels=tuple("0123456789"), **numbers))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        rows = (~held_out).nonzero().squeeze(1)[torch.randint(int((~held_out).sum()), (64,))]
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        right = (model(images[held_out]).argmax(-1) == labels[held_out]).float().mean().item()
    assert right > 0.85  # by chance 0.1
