"""Recomputed blocks: the same gradients from less memory, the same names, in every family."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from luban.data.batch import IGNORED, Batch
from luban.models import FAMILIES, hf
from luban.models.base import Shape
from luban.nn.moe import MoE
from luban.training.answers import answers
from luban.training.experts import evenly_used
from luban.training.recompute import recompute_blocks
from luban.training.step import Objective, Step, next_token
from tests import tiny
from tests.training.test_step import ragged_rows

KINDS = ("causal", "masked", "seq2seq")
TRAINED = sorted(name for name, family in FAMILIES.items() if family.kind in KINDS)


def made(model_type: str) -> Any:
    """A new two-block model of the family over the tiny vocabulary."""
    torch.manual_seed(0)
    shape = Shape(
        model_type=model_type, vocab=384, context=64, dim=64, layers=2, bos_id=1, eos_id=2, pad_id=0
    )
    return hf.build(FAMILIES[model_type].config.sized(shape))


def packed_rows() -> Batch:
    """Two documents in every row."""
    positions = torch.cat([torch.arange(5), torch.arange(7)]).expand(8, 12)
    documents = (positions == 0).cumsum(1)
    return dataclasses.replace(ragged_rows(), positions=positions, documents=documents, packed=True)


def pairs() -> Batch:
    """A source of four tokens and its target of eight in every row."""
    rows = ragged_rows()
    targets = torch.where(torch.arange(12) < 3, IGNORED, rows.tokens.roll(-1, 1))
    return dataclasses.replace(rows, targets=targets)


def some_words(model: Any, batch: Batch) -> Step:
    """A loss of an encoder's states, whatever it is trained for."""
    return Step(model.hidden(batch.tokens, batch.positions, model.isolate(batch.documents)).square().sum(), 1)


def gradients(model: nn.Module, objective: Objective, batch: Batch) -> dict[str, Tensor]:
    model.train()
    torch.manual_seed(5)  # where dropout falls
    objective(model, batch).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_recomputing_changes_no_gradient(model: Any, objective: Objective, batch: Batch) -> None:
    recomputed = copy.deepcopy(model)
    assert recompute_blocks(recomputed) > 0
    expected, got = (gradients(each, objective, batch) for each in (model, recomputed))
    assert list(expected) == list(got)
    for name in expected:
        # T5's blocks share a look-up; recomputed, each takes its own, and their gradients add up in another order.
        close = torch.allclose(expected[name], got[name], atol=1e-6) and "distances" in name
        assert close or torch.equal(expected[name], got[name]), name


@pytest.mark.parametrize("model_type", TRAINED)
def test_gradients_are_the_same_bits_with_and_without_recomputing(model_type: str) -> None:
    kind = FAMILIES[model_type].kind
    objective, batch = {
        "causal": (next_token(), packed_rows()),
        "masked": (some_words, packed_rows()),
        "seq2seq": (answers(smoothing=0.1), pairs()),
    }[kind]
    assert_recomputing_changes_no_gradient(made(model_type), objective, batch)


def test_encoder_and_decoder_blocks_are_recomputed() -> None:
    assert recompute_blocks(made("bart")) == 4


def test_the_balance_of_experts_is_learned_through_recomputed_blocks() -> None:
    model = made("mixtral")
    assert any(isinstance(module, MoE) for module in model.modules())
    assert_recomputing_changes_no_gradient(model, evenly_used(next_token(), model), packed_rows())


def test_dropout_falls_on_the_same_places_both_times() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    torch.manual_seed(0)
    x = torch.rand(4, 8)
    assert_recomputing_changes_no_gradient(
        Dropping(), lambda model, _: Step(model(x).square().sum(), 1), ragged_rows()
    )


def test_names_in_a_checkpoint_stay_as_they_are() -> None:
    model = tiny.llama()
    names = list(model.state_dict())
    recompute_blocks(model)
    assert list(model.state_dict()) == names


def test_blocks_are_trained_whose_input_needs_no_gradient() -> None:
    """As where the embedding is frozen and adapters in the blocks are trained."""
    torch.manual_seed(0)
    model = tiny.llama(tied=False)
    model.embedding.requires_grad_(False)
    assert_recomputing_changes_no_gradient(model, next_token(), ragged_rows())


def test_activations_take_less_memory() -> None:
    torch.manual_seed(0)
    model = tiny.llama(layers=8)
    whole = saved_bytes(model)
    recompute_blocks(model)
    assert saved_bytes(model) < whole / 4


def saved_bytes(model: nn.Module) -> int:
    """Bytes that a forward pass keeps for its gradients, each storage once, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # or a later tensor may get an earlier one's address

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        next_token()(model.train(), ragged_rows()).loss.backward()
    return sum(kept.values())


def test_a_pass_without_gradients_goes_as_before_and_fills_its_cache() -> None:
    torch.manual_seed(0)
    model = tiny.mamba().train()
    tokens = torch.randint(0, 384, (1, 6))
    recompute_blocks(model)
    with torch.no_grad():
        cache = model.make_cache(batch=1, capacity=6)
        model.hidden(tokens, None, cache)
    assert all(slot.state is not None for slot in cache)


@pytest.mark.slow
def test_compiled_recomputing_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    model, batch = tiny.llama(), packed_rows()
    expected = gradients(copy.deepcopy(model), next_token(), batch)
    recompute_blocks(model)
    got = gradients(model, next_token(torch.compile(model.hidden)), batch)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], atol=1e-5, rtol=1e-4)
