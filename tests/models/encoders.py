"""Tiny random `transformers` encoders on disk, with every bias and norm away from its start. Oracles, offline."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from safetensors.torch import load_file, save_file

VOCAB, CONTEXT = 61, 24
BERT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
}
ROBERTA = {**BERT, "max_position_embeddings": CONTEXT + 1, "type_vocab_size": 1, "pad_token_id": 0}
VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 8,
    "patch_size": 4,
    "initializer_range": 0.2,
}
GPT2: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": CONTEXT,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
LLAMA: dict[str, Any] = {**BERT, "num_key_value_heads": 2, "tie_word_embeddings": True}
CONFIGS = {
    "Bert": lambda more: transformers.BertConfig(**BERT, **more),
    "Roberta": lambda more: transformers.RobertaConfig(**ROBERTA, **more),
    "ViT": lambda more: transformers.ViTConfig(**VIT, **more),
    "GPT2": lambda more: transformers.GPT2Config(**GPT2, **more),
    "Llama": lambda more: transformers.LlamaConfig(**LLAMA, **more),
    "Qwen2": lambda more: transformers.Qwen2Config(**LLAMA | {"tie_word_embeddings": False}, **more),
}


@functools.cache
def encoder(architecture: str, **changes: Any) -> tuple[Any, Path]:
    """A `transformers` model in evaluation mode, and the folder it was saved to (do not write there)."""
    torch.manual_seed(0)
    family = next(name for name in CONFIGS if architecture.startswith(name))
    model = getattr(transformers, architecture)(CONFIGS[family](changes)).eval()
    for parameter in model.parameters():  # biases and norms too, or a mistake in them would not show
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    folder = Path(_scratch().name) / "-".join([architecture, *map(str, changes.values())])
    model.save_pretrained(folder)
    return model, folder


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="luban-encoders-")


def tokens_of(batch: int, seq: int) -> torch.Tensor:
    """Ids of words: none is the padding, 0."""
    return torch.randint(1, VOCAB, (batch, seq), generator=torch.Generator().manual_seed(1))


def padding_of(lengths: list[int], seq: int) -> torch.Tensor:
    """Which places hold words, in rows padded on the right."""
    return torch.arange(seq) < torch.tensor(lengths)[:, None]


Weights = dict[str, torch.Tensor]


def changed_folder(
    tmp_path: Path, architecture: str, change: Callable[[Weights], object] = dict, **entries: Any
) -> Path:
    """A copy of a reference's folder, its weights changed by `change`, its config by `entries`."""
    folder = tmp_path / "changed"
    shutil.copytree(encoder(architecture)[1], folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | entries), encoding="utf-8")
    return folder


def without(*names: str) -> Callable[[Weights], object]:
    """A change of a file: these weights are gone."""
    return lambda weights: [weights.pop(name) for name in names]


def put(name: str, *shape: int) -> Callable[[Weights], object]:
    """A change of a file: ones of `shape` stand there as `name`."""
    return lambda weights: weights.update({name: torch.ones(shape)})


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def clean_load(architecture: str, folder: Path) -> Any:
    """What `transformers` makes of `folder`, after it found every weight and no other."""
    loaded: Any = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
    model, report = loaded
    assert not any(report.values()), report
    return model.eval()
