"""What the LLaMA family's members add to the plain decoder: windows, experts, long contexts, published sizes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from luban.errors import ModelError
from luban.models import hf
from luban.models.base import parameter_count
from luban.models.llama import Llama, LlamaConfig
from luban.models.presets import PRESETS
from luban.nn.cache import cache_bytes
from luban.nn.rope_scaling import RopeScaling
from tests import tiny
from tests.models.references import BODY, VOCAB, logits_of, reference

PUBLISHED = {
    "llama-7b": 6_738_415_616,
    "llama2-7b": 6_738_415_616,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3.1-8b": 8_030_261_248,
    "llama3.2-1b": 1_235_814_400,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2-0.5b": 494_032_768,
    "qwen3-0.6b": 596_049_920,
    "qwen3-30b-a3b": 30_532_122_624,
}
"""Parameters as Hugging Face counts them in the published files."""
LARGE = ("mixtral-8x7b", "qwen3-30b-a3b")
"""Of so many modules that making them takes seconds."""


def with_window(**changes: Any) -> Llama:
    torch.manual_seed(0)
    return tiny.llama(model_type="mistral", window=4, **changes)


def without_memory(config: LlamaConfig) -> Llama:
    with torch.device("meta"):
        return Llama(config)


@torch.no_grad()
def test_a_token_beyond_all_windows_is_not_seen() -> None:
    model, tokens = with_window(), torch.arange(12)[None]
    changed = tokens.clone()
    changed[0, 0] = 50
    before, after = model.hidden(tokens), model.hidden(changed)
    reach = 2 * (4 - 1)  # each of two layers passes on what lies three places back
    assert not torch.allclose(before[0, reach], after[0, reach])
    torch.testing.assert_close(before[0, reach + 1 :], after[0, reach + 1 :])


@torch.no_grad()
def test_full_layers_see_beyond_the_window() -> None:
    torch.manual_seed(0)
    model = tiny.llama(model_type="qwen2", window=4, full_layers=(1,))
    tokens = torch.arange(12)[None]
    changed = tokens.clone()
    changed[0, 0] = 50
    assert not torch.allclose(model.hidden(tokens)[0, -1], model.hidden(changed)[0, -1])


@torch.no_grad()
def test_a_window_of_the_whole_text_is_no_window() -> None:
    model, tokens = with_window(), torch.arange(4)[None]
    torch.manual_seed(0)
    plain = tiny.llama()
    torch.testing.assert_close(model(tokens), plain(tokens))


@pytest.mark.parametrize("entries", [{}, {"max_window_layers": 2}])
def test_windows_of_qwen2_follow_transformers_defaults(entries: dict[str, Any]) -> None:
    their = transformers.Qwen2Config(**BODY, use_sliding_window=True, sliding_window=9, **entries)
    told = {key: value for key, value in their.to_dict().items() if key != "layer_types"}
    ours = LlamaConfig.from_hf(told | entries)
    windows = [0 if kind == "full_attention" else 9 for kind in their.layer_types or ()]
    assert [ours.window_of(layer) for layer in range(ours.layers)] == windows


def test_a_mistral_without_the_entry_has_transformers_window_and_null_means_none() -> None:
    entries = transformers.MistralConfig(**BODY).to_dict()
    assert LlamaConfig.from_hf({**entries, "sliding_window": None}).window == 0
    del entries["sliding_window"]
    assert LlamaConfig.from_hf(entries).window == 4096


@torch.no_grad()
def test_dynamic_positions_beyond_the_context_equal_transformers() -> None:
    numbers: dict[str, Any] = BODY | {"max_position_embeddings": 16}
    rope: Any = {"rope_type": "dynamic", "factor": 2.0}
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**numbers, rope_parameters=rope)).eval()
    ours = hf.build(theirs.config.to_dict())
    ours.load_state_dict(_renamed(theirs))
    tokens = torch.randint(VOCAB, (2, 40))
    torch.testing.assert_close(ours(tokens), logits_of(theirs, tokens), atol=1e-4, rtol=0)


@torch.no_grad()
def test_dynamic_positions_step_by_step_equal_transformers() -> None:
    numbers: dict[str, Any] = BODY | {"max_position_embeddings": 16}
    rope: Any = {"rope_type": "dynamic", "factor": 2.0}
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**numbers, rope_parameters=rope)).eval()
    ours = hf.build(theirs.config.to_dict())
    ours.load_state_dict(_renamed(theirs))
    tokens = torch.randint(VOCAB, (1, 30))
    cache, past = ours.make_cache(batch=1, capacity=30), transformers.DynamicCache(config=theirs.config)
    for i in range(30):
        new = tokens[:, i : i + 1]
        expected = theirs(new, past_key_values=past, use_cache=True).logits
        torch.testing.assert_close(ours(new, torch.tensor([[i]]), cache), expected, atol=1e-4, rtol=0)
        for slot in cache:
            slot.advance(1)


def _renamed(model: Any) -> dict[str, torch.Tensor]:
    """A transformers LLaMA's weights under our names."""
    from luban.models.llama_files import NAMES
    from luban.models.names import plan

    ours = dict(without_memory(LlamaConfig.from_hf(model.config.to_dict())).named_parameters())
    weights, renamed = model.state_dict(), {}
    for name, stored in plan(NAMES, ours).items():
        renamed |= stored.split(weights[name])
    return renamed


def test_dynamic_scaling_to_another_context_cannot_be_written_down_and_is_refused() -> None:
    scaling = RopeScaling(kind="dynamic", factor=3, original_context=32)
    with pytest.raises(ValueError, match="of 32 tokens by 3 makes 96, the context is 64"):
        tiny.llama(rope_scaling=scaling)


def test_early_yarn_files_are_read() -> None:
    entries = transformers.LlamaConfig(**BODY).to_dict() | {
        "rope_parameters": None,
        "rope_theta": 500.0,
        "rope_scaling": {"type": "yarn", "factor": 4.0},
    }
    config = LlamaConfig.from_hf(entries)
    assert config.rope_scaling == RopeScaling(kind="yarn", factor=4.0, original_context=64)
    assert config.rope_theta == 500.0


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in PRESETS])
def test_a_published_size_has_the_published_number_of_parameters(name: str) -> None:
    assert parameter_count(without_memory(PRESETS[name]())) == PUBLISHED[name]


@pytest.mark.parametrize("name", PRESETS)
def test_a_published_size_survives_its_own_files(name: str) -> None:
    config = PRESETS[name]()
    assert LlamaConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_a_cache_takes_two_numbers_per_layer_key_head_width_and_token(kv_heads: int) -> None:
    model = tiny.llama(kv_heads=kv_heads)
    assert cache_bytes(model.make_cache(batch=3, capacity=7)) == 2 * 2 * kv_heads * 8 * 7 * 4 * 3


@pytest.mark.parametrize(("kv_heads", "gigabytes"), [(32, 17.18), (8, 4.29)])
def test_four_times_fewer_key_heads_save_three_quarters_of_the_cache(kv_heads: int, gigabytes: float) -> None:
    numbers: dict[str, Any] = {
        "vocab": 32_000,
        "dim": 4096,
        "layers": 32,
        "heads": 32,
        "hidden": 11_008,
        "context": 32_768,
    }
    model = without_memory(LlamaConfig(**numbers, kv_heads=kv_heads)).to(torch.bfloat16)
    assert round(cache_bytes(model.make_cache(batch=1, capacity=32_768)) / 1e9, 2) == gigabytes


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_two_of_eight_half_width_experts_cost_what_one_mlp_does(model_type: str) -> None:
    from luban.models.base import Shape
    from luban.training.flops import body_parameters

    numbers: dict[str, Any] = {"vocab": 64, "context": 32, "dim": 384, "layers": 2}
    experts = LlamaConfig.sized(Shape(model_type=model_type, **numbers))
    dense = LlamaConfig.sized(Shape(model_type="llama", **numbers))
    assert body_parameters(experts) - 2 * 8 * 384 == body_parameters(dense)


def test_a_missing_weight_of_an_expert_is_named(tmp_path: Path) -> None:
    _, folder = reference("mixtral")
    shutil.copy(folder / "config.json", tmp_path)
    name = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=f"weight '{name}' is missing"):
        hf.load(tmp_path)


def test_experts_fused_into_one_tensor_are_unknown_weights(tmp_path: Path) -> None:
    theirs, folder = reference("mixtral")
    shutil.copy(folder / "config.json", tmp_path)
    save_file(
        {name: value.contiguous() for name, value in theirs.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(ModelError, match=r"unknown weight 'model.layers.0.mlp.experts"):
        hf.load(tmp_path)
