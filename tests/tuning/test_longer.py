"""A longer window: its numbers by hand, what was known kept, and what transformers computes of the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from luban.errors import ConfigError
from luban.models import hf
from luban.models.llama import LlamaConfig
from luban.nn.rope_scaling import RopeScaling
from luban.tuning.longer import lengthened, longer_shape, stretched
from tests import tiny

MAKERS = {"llama": tiny.llama, "bloom": tiny.bloom, "gpt2": tiny.gpt2}
CASES = [
    ("llama", "none", None),
    ("llama", "linear", None),
    ("llama", "ntk", None),
    ("llama", "dynamic", None),
    ("llama", "yarn", None),
    ("llama", "yarn", 1.3),
    ("bloom", "alibi", None),
    ("gpt2", "linear", None),
]


def longer(family: str, method: str, context: int = 256, **more: Any) -> Any:
    """A random tiny model with a window of 64, made longer."""
    torch.manual_seed(0)
    model = MAKERS[family](context=64)
    return lengthened(model, longer_shape(model.config, method, context, **more))


@pytest.mark.parametrize(("family", "method", "strength"), CASES)
@torch.no_grad()
def test_transformers_computes_the_same_from_the_files(
    family: str, method: str, strength: float | None, tmp_path: Path
) -> None:
    ours = longer(family, method, attention_factor=strength)
    hf.save(ours, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.randint(384, (2, 200))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("family", "method", "strength"), CASES)
def test_the_files_are_read_as_what_was_written(
    family: str, method: str, strength: float | None, tmp_path: Path
) -> None:
    ours = longer(family, method, attention_factor=strength)
    hf.save(ours, tmp_path)
    assert hf.load_config(tmp_path) == ours.config
    assert hf.load_config(tmp_path).context == 256


def test_the_entries_are_those_that_transformers_documents() -> None:
    rope = {"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0}
    written = longer("llama", "linear").config.to_hf()
    assert written["rope_parameters"] == rope
    assert written["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert written["max_position_embeddings"] == 256
    written = longer("llama", "yarn").config.to_hf()
    assert written["rope_scaling"]["original_max_position_embeddings"] == 64
    assert written["rope_scaling"]["factor"] == 4.0
    written = longer("llama", "dynamic").config.to_hf()
    assert written["max_position_embeddings"] == 64  # where dynamic scaling begins
    written = longer("llama", "ntk").config.to_hf()
    assert written["rope_scaling"] is None
    assert written["rope_theta"] == pytest.approx(10000.0 * 4 ** (8 / 6))  # heads of 8


@pytest.mark.parametrize("method", ["none", "dynamic"])
@torch.no_grad()
def test_within_the_old_window_nothing_changes(method: str) -> None:
    torch.manual_seed(0)
    model = tiny.llama(context=64)
    tokens = torch.randint(384, (2, 64))
    before = model(tokens)
    after = lengthened(model, longer_shape(model.config, method, 256))(tokens)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


@torch.no_grad()
def test_interpolated_positions_are_the_old_ones_at_fractions() -> None:
    torch.manual_seed(0)
    model = tiny.llama(context=64)
    tokens = torch.randint(384, (1, 20))
    slowed = lengthened(model, longer_shape(model.config, "linear", 256))
    quarters = model.hidden(tokens, torch.arange(20)[None] / 4)
    torch.testing.assert_close(slowed.hidden(tokens), quarters, atol=1e-5, rtol=0)


def test_a_learned_table_is_stretched_between_its_ends() -> None:
    table = torch.tensor([[0.0, 10.0], [2.0, 30.0]])
    expected = torch.tensor([[0.0, 10.0], [0.5, 15.0], [1.0, 20.0], [1.5, 25.0], [2.0, 30.0]])
    torch.testing.assert_close(stretched(table, 5), expected)


def test_a_tied_head_stays_tied_and_the_old_model_is_as_it_was() -> None:
    model = tiny.gpt2()
    table = model.positions.weight.clone()
    made = lengthened(model, longer_shape(model.config, "linear", 256))
    assert made.head.weight is made.embedding.weight
    assert made.positions.weight.shape == (256, 32)
    assert torch.equal(model.positions.weight, table)


SCALED = {"rope_scaling": RopeScaling(kind="linear", factor=2)}


@pytest.mark.parametrize(
    ("family", "changes", "wish", "told"),
    [
        (
            "llama",
            {},
            ("alibi", 128, None),
            "'alibi' is not for a 'llama' model; choose from: dynamic, linear",
        ),
        ("bloom", {}, ("yarn", 4096, None), "'yarn' is not for a 'bloom' model; choose from: alibi"),
        ("llama", {}, ("yarn", 64, None), "64 tokens are not more than the window has, 64"),
        ("llama", {}, ("ntk", 128, 1.1), "'ntk' has no temperature"),
        ("llama", SCALED, ("yarn", 128, None), r"the rotations are scaled already \(linear\)"),
    ],
)
def test_what_cannot_be_made_longer_is_refused(
    family: str, changes: dict[str, Any], wish: tuple[str, int, float | None], told: str
) -> None:
    shape = MAKERS[family](**changes).config
    method, context, strength = wish
    with pytest.raises(ConfigError, match=told):
        longer_shape(shape, method, context, attention_factor=strength)


def test_a_family_without_positions_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="a 'mamba' model cannot be made longer; families: bloom, gpt2, llama"
    ):
        longer_shape(tiny.mamba().config, "none", 128)


def test_a_dynamic_file_says_its_old_window_and_is_used_to_its_new_one() -> None:
    entries = longer("llama", "dynamic").config.to_hf()
    config = LlamaConfig.from_hf(json.loads(json.dumps(entries)))
    assert config.rope_scaling == RopeScaling(kind="dynamic", factor=4, original_context=64)
    assert config.context == 256
