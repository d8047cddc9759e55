"""The contract of the families, apart from what `transformers` can check."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from luban.errors import ModelError, PromptError
from luban.models.base import CausalLM, parameter_count
from luban.models.llama import LlamaConfig
from tests import tiny

MODELS = {
    "llama": tiny.llama,
    "window": lambda: tiny.llama(model_type="mistral", window=4),
    "gpt2": tiny.gpt2,
    "bloom": tiny.bloom,
    "mamba": tiny.mamba,
}
NUMBERS: dict[str, Any] = {"vocab": 64, "dim": 32, "layers": 1, "heads": 4, "hidden": 48, "context": 16}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> CausalLM:
    torch.manual_seed(0)
    return MODELS[request.param]()


def test_forward_is_the_head_of_hidden(model: CausalLM) -> None:
    tokens = torch.arange(10)[None]
    assert torch.equal(model(tokens), model.head(model.hidden(tokens)))


def test_embeds_replace_tokens(model: CausalLM) -> None:
    tokens = torch.arange(10)[None]
    assert torch.equal(model.hidden(None, embeds=model.embedding(tokens)), model.hidden(tokens))


def test_later_tokens_do_not_change_earlier_states(model: CausalLM) -> None:
    tokens = torch.arange(10)[None]
    changed = tokens.clone()
    changed[0, 6:] += 100
    before, after = model.hidden(tokens), model.hidden(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_a_cache_of_another_depth_is_refused(model: CausalLM) -> None:
    cache = model.make_cache(batch=1, capacity=4)[:1]
    with pytest.raises(ValueError, match="shorter"):
        model(torch.arange(4)[None], None, cache)


def test_every_parameter_gets_a_gradient(model: CausalLM) -> None:
    model(torch.arange(10)[None]).logsumexp(-1).sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_a_tied_head_is_the_embedding() -> None:
    model = tiny.llama(tied=True)
    assert model.head.weight is model.embedding.weight
    assert parameter_count(tiny.llama()) - parameter_count(model) == 384 * 32


def test_parameters_are_counted_as_by_hand() -> None:
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32
    block = attention + 3 * 32 * 48 + 2 * 32
    assert parameter_count(tiny.llama()) == 2 * 384 * 32 + 2 * block + 32


def test_residual_projections_start_narrower() -> None:
    model = tiny.llama(dim=256, hidden=1024, layers=8)
    narrow = 0.02 / math.sqrt(16)
    expected = {"attention.q": 0.02, "attention.o": narrow, "mlp.up": 0.02, "mlp.down": narrow}
    for block in model.blocks:
        for name, std in expected.items():
            weight = block.get_parameter(f"{name}.weight")
            assert weight.std().item() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize("given", [True, False])
def test_gpt2_refuses_positions_it_never_learned(given: bool) -> None:
    tokens = torch.zeros(1, 65, dtype=torch.long)
    positions = torch.arange(65)[None] if given else None
    with pytest.raises(PromptError, match="position 64 is beyond the 64 positions"):
        tiny.gpt2()(tokens, positions)


def test_llama_reads_beyond_its_context() -> None:
    assert tiny.llama()(torch.zeros(1, 100, dtype=torch.long)).shape == (1, 100, 384)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dim": 30}, "dim 30 is not a multiple of heads 4"),
        ({"kv_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"window": 8}, "window 8 for llama, which sees the whole text"),
        ({"model_type": "mistral", "window": 8, "full_layers": (0,)}, "full_layers .* for mistral"),
        ({"model_type": "qwen2", "full_layers": (0,)}, "full_layers .* of window 0"),
        (
            {"model_type": "qwen2", "window": 8, "full_layers": (1,)},
            "full_layers has 1; the layers are 0 to 0",
        ),
        ({"experts": 4, "experts_per_token": 2}, "experts is 4 for llama; those with experts: mixtral"),
        ({"model_type": "mixtral", "experts": 4, "experts_per_token": 5}, "experts_per_token is 5 of 4"),
        ({"model_type": "mixtral", "experts": 4}, "experts_per_token is 0 of 4"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        LlamaConfig(**(NUMBERS | change))


@pytest.mark.slow
@torch.no_grad()
def test_compiled_hidden_equals_eager(model: CausalLM) -> None:
    tokens = torch.arange(24).view(2, 12)
    compiled = torch.compile(model.hidden, fullgraph=True)
    torch.testing.assert_close(compiled(tokens), model.hidden(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_compiled_gradients_equal_eager(model: CausalLM) -> None:
    tokens = torch.arange(24).view(2, 12)
    model.hidden(tokens).square().sum().backward()
    eager = [parameter.grad for parameter in model.blocks.parameters()]
    model.zero_grad()
    torch.compile(model.hidden, fullgraph=True)(tokens).square().sum().backward()
    for ours, expected in zip(model.blocks.parameters(), eager, strict=True):
        torch.testing.assert_close(ours.grad, expected, atol=1e-3, rtol=1e-3)
