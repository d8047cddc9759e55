"""FLOPs of a training token: the matrices of any family, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from luban.models import FAMILIES
from luban.models.base import Shape
from luban.training.flops import body_parameters, matrix_parameters, training_flops_per_token

DIM, LAYERS, VOCAB, HIDDEN = 32, 3, 100, 48


def config_of(name: str, **changes: Any) -> Any:
    numbers: dict[str, Any] = {"vocab": VOCAB, "context": 64, "dim": DIM, "layers": LAYERS}
    return FAMILIES[name].config.sized(Shape(model_type=name, **(numbers | changes)))


def test_a_llama_has_four_attention_matrices_and_three_of_its_mlp() -> None:
    config = config_of("llama", heads=4, kv_heads=2, hidden=HIDDEN)
    attention = 2 * DIM * DIM + 2 * DIM * 16
    assert body_parameters(config) == LAYERS * (attention + 3 * DIM * HIDDEN)


def test_a_gpt2_has_four_attention_matrices_and_two_of_its_mlp() -> None:
    config = config_of("gpt2", heads=4, hidden=HIDDEN)
    assert body_parameters(config) == LAYERS * (4 * DIM * DIM + 2 * DIM * HIDDEN)


def test_a_mixture_counts_the_experts_a_token_goes_to_and_the_router() -> None:
    config = config_of("mixtral", heads=4, hidden=HIDDEN)
    attention, experts = 4 * DIM * DIM, config.experts_per_token * 3 * DIM * HIDDEN
    assert body_parameters(config) == LAYERS * (attention + experts + config.experts * DIM)


@pytest.mark.parametrize(("name", "gates"), [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_a_recurrent_layer_has_two_matrices_per_gate(name: str, gates: int) -> None:
    assert body_parameters(config_of(name)) == LAYERS * gates * 2 * DIM * DIM


def test_a_feed_forward_model_has_its_window_and_direct_connections() -> None:
    config = config_of("feedforward", layers=1, hidden=HIDDEN)
    assert body_parameters(config) == 4 * DIM * HIDDEN
    assert matrix_parameters(config) == 4 * DIM * HIDDEN + VOCAB * (HIDDEN + 4 * DIM + 1)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_multiplies_whether_it_is_tied_or_not(tied: bool) -> None:
    config = config_of("llama", tied=tied)
    assert matrix_parameters(config) == body_parameters(config) + VOCAB * DIM


def test_a_token_costs_six_flops_a_weight_and_attention_where_there_are_heads() -> None:
    recurrent, attending = config_of("lstm"), config_of("gpt2", heads=4)
    assert training_flops_per_token(recurrent, 64) == 6 * matrix_parameters(recurrent)
    scores_and_sums = 2 * LAYERS * DIM * 64
    expected = 6 * matrix_parameters(attending) + 3 * scores_and_sums
    assert training_flops_per_token(attending, 64) == expected
