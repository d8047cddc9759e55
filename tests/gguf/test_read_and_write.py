"""A model folder to a GGUF file and back: the same weights and vocabulary, or by no more off than the type rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from luban.errors import ModelError
from luban.gguf import read, vocabulary, write
from luban.gguf.architectures import ARCHITECTURES
from luban.models import hf
from luban.nn.rope_scaling import RopeScaling
from luban.tokenizers import files
from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.train import train_bpe
from tests import tiny

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied": {"tied": True},
    "wide heads": {"head_dim": 16},
    "mistral": {"model_type": "mistral"},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "linear": {"rope_scaling": RopeScaling(kind="linear", factor=2.0)},
    "llama3": {"rope_theta": 500_000.0, "rope_scaling": RopeScaling(kind="llama3", factor=8.0)},
    "yarn": {"rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_context=16)},
}


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    return (tiny.gpt2() if name == "gpt2" else tiny.llama(**{"hidden": 64} | MODELS[name])).eval()


def there_and_back(model: Any, tmp_path: Path, kind: write.Kind = "f32") -> Any:
    write.write(model, tiny.tokenizer(), tmp_path / "model.gguf", kind, name="tiny")
    (tmp_path / "again").mkdir()
    read.convert(tmp_path / "model.gguf", tmp_path / "again")
    return hf.load(tmp_path / "again").eval()


@pytest.mark.parametrize("name", [*MODELS, "gpt2"])
def test_float32_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    made = there_and_back(model, tmp_path)
    weights, before = made.state_dict(), model.state_dict()
    assert weights.keys() == before.keys()
    assert all(torch.equal(weights[key], before[key]) for key in before)
    tokens = torch.randint(384, (2, 40))
    with torch.no_grad():
        assert torch.equal(made(tokens), model(tokens))  # so the config is the same where it matters


@pytest.mark.parametrize(("kind", "near"), [("f16", 5e-4), ("bf16", 4e-3), ("q8_0", 8e-3), ("q4_0", 0.12)])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_shorter_types_are_off_by_their_rounding(
    name: str, kind: write.Kind, near: float, tmp_path: Path
) -> None:
    model = model_of(name)
    made = there_and_back(model, tmp_path, kind)
    moved = {
        key: ((value - made.state_dict()[key]).norm() / value.norm().clamp(min=1e-9)).item()
        for key, value in model.state_dict().items()
    }
    assert 0 < max(moved.values()) < near, moved
    assert not any(moved[key] for key in moved if "norm" in key or key == "positions.weight")


def test_a_wide_matrix_gets_eight_bits_where_others_have_four(tmp_path: Path) -> None:
    told = write.write(model_of("llama"), tiny.tokenizer(), tmp_path / "model.gguf", "q4_0", name="tiny")
    kinds = {
        tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors
    }
    assert kinds["token_embd.weight"] == kinds["output.weight"] == "Q8_0"
    assert kinds["blk.1.ffn_down.weight"] == "Q4_0"
    assert kinds["output_norm.weight"] == "F32"
    assert told["types"] == {"F32": 5, "Q4_0": 14, "Q8_0": 2}


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_reordered_rows_come_back(heads: int, half: int, columns: int) -> None:
    rows = np.arange(heads * 2 * half * columns).reshape(heads * 2 * half, columns)
    np.testing.assert_array_equal(read.unpermute(write.permute(rows, heads), heads), rows)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_are_those_of_the_gguf_package(name: str) -> None:
    """Every name of the table is one that llama.cpp has for the architecture."""
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    known = {gguf.TENSOR_NAMES[tensor].replace("{bid}", "*") for tensor in gguf.MODEL_TENSORS[arch]}
    assert set(ARCHITECTURES[name].modules.values()) <= known


def tokenizer_of(kind: str) -> FileTokenizer:
    if kind == "bos":
        return tiny.with_bos("{{ messages }}")
    if kind in ("gpt2", "llama3"):
        return train_bpe(tiny.TEXTS, vocab=384, pattern=kind)
    backend = tokenizers.Tokenizer.from_str(tiny.tokenizer().to_json())
    if kind == "smollm":
        steps = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
        backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    else:
        layout = json.loads(backend.to_str())
        layout |= {"pre_tokenizer": vocabulary.SPLITS["qwen2"].pre_tokenizer, "normalizer": {"type": "NFC"}}
        backend = tokenizers.Tokenizer.from_str(json.dumps(layout))
    return FileTokenizer(backend, settings={"eos_token": "<|endoftext|>"})


NAMES = {"gpt2": "gpt-2", "llama3": "dbrx", "smollm": "smollm", "qwen2": "qwen2", "bos": "dbrx"}


@pytest.mark.parametrize("kind", NAMES)
def test_a_vocabulary_comes_back_with_its_roles(kind: str, tmp_path: Path) -> None:
    before = tokenizer_of(kind)
    write.write(model_of("llama"), before, tmp_path / "model.gguf", "f32", name="tiny")
    assert gguf.GGUFReader(tmp_path / "model.gguf").fields["tokenizer.ggml.pre"].contents() == NAMES[kind]
    read.convert(tmp_path / "model.gguf", tmp_path)
    after = files.load(tmp_path)
    texts = [*tiny.TEXTS[:5], "It's we'LL  1 23 4567\r\n\n x <|im_end|>", "e\u0301"]
    assert after.encode_batch(texts) == before.encode_batch(texts)
    for role in ("bos_id", "eos_id", "pad_id", "stop_ids", "adds_bos", "special_tokens", "chat_template"):
        assert getattr(after, role) == getattr(before, role), role


def test_ids_beyond_the_vocabulary_are_unused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = there_and_back(tiny.llama(vocab=400).eval(), tmp_path)
    assert made.config.vocab == 400
    assert files.load(tmp_path / "again").vocab_size == 384


def other_split() -> FileTokenizer:
    backend = tokenizers.Tokenizer.from_str(tiny.tokenizer().to_json())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return FileTokenizer(backend, settings={})


def lowercase() -> FileTokenizer:
    backend = tokenizers.Tokenizer.from_str(tiny.tokenizer().to_json())
    backend.normalizer = normalizers.Lowercase()
    return FileTokenizer(backend, settings={})


@pytest.mark.parametrize(
    ("tokenizer", "problem"),
    [
        (other_split, "no name for the way this tokenizer splits text: .*Punctuation"),
        (lowercase, "no name for the way this tokenizer splits text"),
        (tiny.sentencepiece_like, "kind 'BPE' that is not byte-level BPE"),
    ],
)
def test_a_vocabulary_without_a_name_is_refused(tokenizer: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=problem):
        write.write(model_of("llama"), tokenizer(), tmp_path / "model.gguf", "f32", name="tiny")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "kind", "problem"),
    [
        (
            tiny.bloom,
            "f32",
            "the family 'bloom' has no GGUF names here; those that have: llama, mistral, qwen2",
        ),
        (lambda: tiny.llama(model_type="mistral", window=8), "f32", "attention in windows has no GGUF names"),
        (lambda: tiny.llama(model_type="qwen2", window=8), "f32", "attention in windows has no GGUF names"),
        (lambda: tiny.llama(hidden=48), "q8_0", "'blk.0.ffn_down.weight' has rows of 48 .* groups of 32"),
        (
            lambda: tiny.llama(vocab=300),
            "f32",
            "the tokenizer has the id 383, and the model knows 300 tokens",
        ),
        (
            lambda: tiny.llama(rope_scaling=RopeScaling(kind="dynamic", factor=2.0, original_context=32)),
            "f32",
            "rotation scaled by 'dynamic'",
        ),
        (
            lambda: tiny.llama(rope_scaling=RopeScaling(kind="yarn", factor=2.0, beta_fast=16.0)),
            "f32",
            "rotation scaled by 'beta_fast' of 16.0",
        ),
    ],
)
def test_what_the_file_cannot_say_is_refused(
    model: Any, kind: write.Kind, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=problem):
        write.write(model(), tiny.tokenizer(), tmp_path / "model.gguf", kind, name="tiny")
    assert not list(tmp_path.iterdir())


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    write.write(model_of("llama"), tiny.tokenizer(), tmp_path / "model.gguf", "f32", name="tiny")
    whole = (tmp_path / "model.gguf").read_bytes()
    for size in (0, 3, 100, len(whole) // 4, len(whole) - 5000):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(ModelError, match="not a GGUF file"):
            read.convert(tmp_path / "cut.gguf", tmp_path)
    assert not (tmp_path / "config.json").exists()
