"""LoRA and what every adapter can: it starts as the model, is merged, switched, composed and taken off again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from luban.errors import ConfigError
from luban.nn import surgery
from luban.peft import METHODS
from luban.peft.adapter import switched_off
from luban.peft.lora import LoraConfig, apply, composed
from luban.training.recompute import recompute_blocks
from tests import tiny
from tests.peft.learning import disturb, tokens

TARGETS = ("q", "v", "down", "embedding")


def model_and_adapter(name: str = "default", **changes: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = tiny.llama()
    adapter = apply(model, LoraConfig(r=3, target_modules=TARGETS, **changes), name=name)
    return model, adapter


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_starts_as_the_model_itself(dora: bool) -> None:
    torch.manual_seed(0)
    expected = tiny.llama()(tokens())
    model, _ = model_and_adapter(use_dora=dora)
    torch.testing.assert_close(model(tokens()), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dora", [False, True])
def test_merged_is_the_same_as_attached_and_unmerged_as_before(dora: bool) -> None:
    model, adapter = model_and_adapter(use_dora=dora)
    disturb(adapter)
    before = {name: value.clone() for name, value in surgery.own_parameters(model).items()}
    attached = model(tokens())
    adapter.merge()
    torch.testing.assert_close(model(tokens()), attached, atol=1e-5, rtol=1e-5)
    adapter.unmerge()
    assert torch.equal(model(tokens()), attached)
    for name, value in surgery.own_parameters(model).items():
        assert torch.equal(value, before[name])


def test_merged_for_good_leaves_a_plain_model() -> None:
    model, adapter = model_and_adapter()
    disturb(adapter)
    attached = model(tokens())
    adapter.merge(for_good=True)
    torch.testing.assert_close(model(tokens()), attached, atol=1e-5, rtol=1e-5)
    assert not list(surgery.parts(model))
    assert list(model.state_dict()) == list(tiny.llama().state_dict())


def test_an_adapter_switched_off_or_removed_leaves_the_model_to_the_bit() -> None:
    torch.manual_seed(0)
    plain = tiny.llama()
    expected, names = plain(tokens()), list(plain.state_dict())
    model, adapter = model_and_adapter()
    disturb(adapter)
    assert not torch.equal(model(tokens()), expected)
    with switched_off(model):
        assert torch.equal(model(tokens()), expected)
    assert not torch.equal(model(tokens()), expected)
    adapter.remove()
    assert torch.equal(model(tokens()), expected)
    assert list(model.state_dict()) == names


def test_trained_weights_are_2_r_d_per_matrix_and_nothing_else() -> None:
    _, adapter = model_and_adapter()
    dim, kv, hidden, vocab, r, layers = 32, 16, 48, 384, 3, 2
    expected = layers * r * ((dim + dim) + (dim + kv) + (hidden + dim)) + r * (vocab + dim)
    assert sum(weight.numel() for weight in adapter.trained().values()) == expected


def test_two_adapters_add_up_by_their_shares() -> None:
    model, first = model_and_adapter("first")
    second = apply(model, LoraConfig(r=2, target_modules=("o",)), name="second")
    disturb(second)
    layer = model.blocks[0].attention.o
    x = torch.randn(1, 4, 32)
    with surgery.shared(model, {"second": 0.5}):
        half = layer(x)
    with switched_off(model):
        none = layer(x)
    torch.testing.assert_close(2 * (half - none), layer(x) - none, atol=1e-5, rtol=1e-5)
    first.remove()
    assert [part for _, _, part in surgery.parts(model)]


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    assert LoraConfig(r=16, lora_alpha=8).scale == 0.5
    assert LoraConfig(r=16, lora_alpha=8, use_rslora=True).scale == 2.0


def test_a_pattern_that_means_no_layer_says_which_there_are() -> None:
    with pytest.raises(ConfigError, match="'q_prj' matches no layer"):
        apply(tiny.llama(), LoraConfig(target_modules=("q_prj",)))
    with pytest.raises(ConfigError, match="the head cannot have an adapter"):
        apply(tiny.llama(), LoraConfig(target_modules=("head",)))


def test_every_method_says_what_it_is() -> None:
    for method in METHODS.values():
        assert method.summary
        assert method.paper


def test_patterns_give_layers_their_own_ranks_and_scales() -> None:
    config = LoraConfig(
        r=4, target_modules=("all-linear",), rank_pattern={"0.*.q": 2, "q|k": 3}, alpha_pattern={"down": 8.0}
    )
    adapter = apply(tiny.llama(), config)
    ranks = {place: part.rank for place, part in adapter.lora().items()}
    scales = {place: part.scale for place, part in adapter.lora().items()}
    assert [ranks[f"blocks.{place}"] for place in ("0.attention.q", "1.attention.q", "0.attention.v")] == [
        2,
        3,
        4,
    ]
    assert scales["blocks.0.attention.q"] == 16 / 2
    assert scales["blocks.1.mlp.down"] == 8 / 4


def test_all_linear_is_every_linear_layer_but_the_head() -> None:
    model = tiny.llama()
    adapter = apply(model, LoraConfig(target_modules=("all-linear",)))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(adapter.parts()) == linear - {"head"}


def test_several_adapters_are_switched_and_composed_into_one_that_adds_as_much() -> None:
    model, first = model_and_adapter("first")
    second = apply(model, LoraConfig(r=2, target_modules=("q", "o"), lora_alpha=5), name="second")
    disturb(second)  # of both
    third = composed({first: 0.5, second: -2.0}, name="third")
    with surgery.shared(model, {"first": 0.5, "second": -2.0}):
        expected = model(tokens())
    with surgery.shared(model, {"third": 1.0}):
        torch.testing.assert_close(model(tokens()), expected, atol=1e-4, rtol=1e-4)
    assert third.lora()["blocks.0.attention.q"].rank == 3 + 2
    assert third.lora()["blocks.0.attention.o"].rank == 2


def test_half_of_a_dora_is_attached_as_it_is_merged() -> None:
    model, adapter = model_and_adapter(use_dora=True)
    disturb(adapter)
    with surgery.shared(model, {"default": 0.5}):
        expected = model(tokens())
    adapter.merge(0.5)
    torch.testing.assert_close(model(tokens()), expected, atol=1e-5, rtol=1e-5)


def test_a_merge_of_several_adapters_adds_them_up() -> None:
    model, first = model_and_adapter("first")
    second = apply(model, LoraConfig(r=2, target_modules=("q", "o")), name="second")
    disturb(second)
    with surgery.shared(model, {"first": 0.5, "second": 2.0}):
        expected = model(tokens())
    first.merge(0.5, for_good=True)
    second.merge(2.0, for_good=True)
    torch.testing.assert_close(model(tokens()), expected, atol=1e-4, rtol=1e-4)


def test_what_was_merged_last_is_unmerged_first() -> None:
    model, first = model_and_adapter("first")
    second = apply(model, LoraConfig(r=2, target_modules=("q", "o")), name="second")
    disturb(second)
    expected = model(tokens())
    first.merge()
    second.merge()
    torch.testing.assert_close(model(tokens()), expected, atol=1e-4, rtol=1e-4)
    second.unmerge()
    first.unmerge()
    assert torch.equal(model(tokens()), expected)
    first.merge()
    second.merge()
    with pytest.raises(AssertionError, match="the last merged first"):
        first.unmerge()


def test_an_embedding_whose_weight_is_the_heads_too_is_not_merged() -> None:
    model = tiny.llama(tied=True)
    adapter = apply(model, LoraConfig(target_modules=("embedding",)))
    with pytest.raises(ConfigError, match="'embedding' is the head's too"):
        adapter.merge()


@pytest.mark.parametrize("method", ["lora", "lora_fa", "relora", "increlora"])
@pytest.mark.parametrize("recomputed", [False, True])
def test_training_lowers_the_loss_and_moves_nothing_frozen(method: str, recomputed: bool) -> None:
    model, adapter = applied(method)
    if recomputed:
        assert recompute_blocks(model) == 2
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    start = {name: p.clone() for name, p in adapter.trained().items()}
    losses = train(model, adapter, 30)
    assert losses[-1] < losses[0] - 0.4  # the frozen head is small: 0.57 is all there is
    for name, value in frozen.items():
        assert torch.equal(dict(model.named_parameters())[name], value), name
    assert all(not torch.equal(p, start[name]) for name, p in adapter.trained().items())


@pytest.mark.parametrize("method", ["lora", "lora_fa", "relora", "increlora"])
def test_gradients_are_the_same_with_recomputed_blocks(method: str) -> None:
    gradients = []
    for recomputed in (False, True):
        model, adapter = applied(method)
        disturb(adapter)
        if recomputed:
            recompute_blocks(model)
        F.cross_entropy(model(tokens())[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten()).backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in adapter.trained().values() if p.grad is not None])
        )
    assert gradients[0].norm() > 0
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", ["lora", "lora_fa", "relora", "increlora"])
def test_documents_packed_into_one_row_are_computed_as_if_alone(method: str) -> None:
    model, adapter = applied(method)
    disturb(adapter)
    model.eval()
    first, second = tokens()
    documents = torch.tensor([[0] * 9 + [1] * 9])
    positions = torch.arange(9).repeat(2)[None]
    packed = model(torch.cat([first, second])[None], positions, model.isolate(documents))
    torch.testing.assert_close(packed.view(2, 9, -1), model(tokens()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["lora", "lora_fa", "relora", "increlora"])
def test_a_base_in_bfloat16_trains_adapters_in_float32(method: str) -> None:
    model, adapter = applied(method, dtype=torch.bfloat16)
    assert {p.dtype for p in adapter.trained().values()} == {torch.float32}
    assert model(tokens()).dtype == torch.bfloat16
    losses = train(model, adapter, 30)
    assert losses[-1] < losses[0] - 0.4  # the frozen head is small: 0.57 is all there is
    attached = model.eval()(tokens()).float()
    adapter.merge()
    torch.testing.assert_close(model(tokens()).float(), attached, atol=0.1, rtol=0.1)


def test_dropout_is_for_training_only() -> None:
    model, adapter = model_and_adapter(lora_dropout=0.5)
    disturb(adapter)
    model.eval()
    assert torch.equal(model(tokens()), model(tokens()))
    model.train()
    assert not torch.equal(model(tokens()), model(tokens()))


def applied(method: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A tiny model with the method on q, v and down."""
    torch.manual_seed(0)
    model = tiny.llama().to(dtype)
    return model, METHODS[method].apply(model, METHODS[method].config(target_modules=("q", "v", "down")))


def train(model: Any, adapter: Any, steps: int) -> list[float]:
    """The losses of `steps` steps on one batch, the adapter's moments called as a stage calls them."""
    model.train()
    optimizer = torch.optim.AdamW(list(adapter.trained().values()), lr=0.1, weight_decay=0.0)
    losses = []
    for step in range(1, steps + 1):
        loss = F.cross_entropy(model(tokens())[:, :-1].float().flatten(0, 1), tokens()[:, 1:].flatten())
        losses.append(loss.item())
        more = adapter.loss()
        (loss if more is None else loss + more).backward()
        adapter.after_backward()
        optimizer.step()
        adapter.after_step(step, steps, optimizer)
        optimizer.zero_grad()
    return losses
