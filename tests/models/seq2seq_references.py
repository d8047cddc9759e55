"""Tiny random encoder-decoders of `transformers` on disk, and the ways they are called. Oracles, offline."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

VOCAB, CONTEXT, PAD, END = 53, 24, 1, 2
IDS: dict[str, Any] = {
    "vocab_size": VOCAB,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "decoder_start_token_id": 3,
}
BART_BODY: dict[str, Any] = {
    **IDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": CONTEXT,
    "init_std": 0.2,
}
T5_BODY: dict[str, Any] = {
    **IDS,
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
}
UNEVEN: dict[str, Any] = {
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "scale_embedding": True,
    "activation_function": "relu",
}
OWN_HEAD: dict[str, Any] = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
CONFIGS: dict[str, Callable[[], Any]] = {
    "bart": lambda: transformers.BartConfig(**BART_BODY),
    "bart uneven": lambda: transformers.BartConfig(**(BART_BODY | UNEVEN)),
    "t5 relu": lambda: transformers.T5Config(**T5_BODY),
    "t5 gated": lambda: transformers.T5Config(
        **T5_BODY, num_decoder_layers=1, feed_forward_proj="gated-gelu"
    ),
    "t5 own head": lambda: transformers.T5Config(**T5_BODY, **OWN_HEAD),
}


@functools.cache
def reference(name: str) -> tuple[Any, Path]:
    """A `transformers` model in evaluation mode, and the folder it was saved to (do not write there)."""
    torch.manual_seed(0)
    model = transformers.AutoModelForSeq2SeqLM.from_config(CONFIGS[name]()).eval()
    if name == "t5 own head":
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, 32) / 6)
    stir(model)
    folder = Path(scratch().name) / name
    model.save_pretrained(folder)
    return model, folder


def stir(model: torch.nn.Module) -> None:
    """Give biases and norms other values than 0 and 1, or a mistake in them would not show."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.ndim == 1 or tensor.shape == (1, VOCAB):
            torch.nn.init.normal_(tensor, mean=0.5, std=0.3)


@functools.cache
def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for this session."""
    return tempfile.TemporaryDirectory(prefix="luban-references-")


@torch.no_grad()
def logits_of(model: Any, source: torch.Tensor, tokens: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """The reference's logits."""
    return model(input_ids=source, decoder_input_ids=tokens, **arguments).logits


def tokens_of(batch: int, seq: int, *, seed: int = 1) -> torch.Tensor:
    """Any ids that are neither padding nor special."""
    return torch.randint(4, VOCAB, (batch, seq), generator=torch.Generator().manual_seed(seed))
