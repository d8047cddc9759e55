"""BART's files as Hugging Face lays them out: entries of config.json, names of weights, and which head there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luban.models.base import reject_unsupported
from luban.models.names import Names

GENERATION, BODY, CLASSIFICATION = (
    "BartForConditionalGeneration",
    "BartModel",
    "BartForSequenceClassification",
)
DEFAULT_LABELS = 3
"""How many labels a classifier has whose config does not name them."""
HF_ENTRIES = {
    "vocab_size": "vocab",
    "d_model": "dim",
    "decoder_layers": "layers",
    "encoder_layers": "encoder_layers",
    "decoder_attention_heads": "heads",
    "encoder_attention_heads": "encoder_heads",
    "decoder_ffn_dim": "hidden",
    "encoder_ffn_dim": "encoder_hidden",
    "max_position_embeddings": "context",
    "activation_function": "activation",
    "scale_embedding": "scaled",
    "decoder_start_token_id": "decoder_start_id",
    "bos_token_id": "bos_id",
    "eos_token_id": "eos_id",
    "pad_token_id": "pad_id",
}
SUPPORTED = {
    "architectures": ([GENERATION], [BODY], [CLASSIFICATION]),
    "is_encoder_decoder": (True,),
    "is_decoder": (False,),
    "tie_word_embeddings": (True,),
    # Said by early checkpoints of choices that became families of their own.
    "normalize_before": (False,),
    "normalize_embedding": (True,),
    "add_final_layer_norm": (False,),
    "add_bias_logits": (False,),
    "static_position_embeddings": (False,),
}
STEM = {"embed_positions": "stem.positions", "layernorm_embedding": "stem.norm"}
BLOCK = {
    "self_attn.q_proj": "attention.q",
    "self_attn.k_proj": "attention.k",
    "self_attn.v_proj": "attention.v",
    "self_attn.out_proj": "attention.o",
    "self_attn_layer_norm": "attention_norm",
    "fc1": "mlp.up",
    "fc2": "mlp.down",
    "final_layer_norm": "mlp_norm",
}
CROSS = {
    "encoder_attn.q_proj": "cross.q",
    "encoder_attn.k_proj": "cross.k",
    "encoder_attn.v_proj": "cross.v",
    "encoder_attn.out_proj": "cross.o",
    "encoder_attn_layer_norm": "cross_norm",
}
NAMES = Names(
    modules={
        "model.shared": "embedding",
        **{f"model.encoder.{theirs}": f"encoder.{ours}" for theirs, ours in STEM.items()},
        **{f"model.encoder.layers.*.{theirs}": f"encoder.blocks.*.{ours}" for theirs, ours in BLOCK.items()},
        **{f"model.decoder.{theirs}": ours for theirs, ours in STEM.items()},
        **{
            f"model.decoder.layers.*.{theirs}": f"blocks.*.{ours}" for theirs, ours in (BLOCK | CROSS).items()
        },
        "final_logits_bias": "final_bias",
        "classification_head.dense": "classifier.dense",
        "classification_head.out_proj": "classifier.out",
    },
    prefix="model.",
    buffers=("encoder.version", "decoder.version"),
    copies=("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"),
)


def head_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """`final_bias` and `labels` of the model that an HF config is of, told by `architectures`.

    Raises ModelError for an architecture, or any other entry, that is not computed here.
    """
    reject_unsupported(config, SUPPORTED)
    (architecture,) = config.get("architectures") or [GENERATION]
    names = config.get("id2label") or {str(number): f"LABEL_{number}" for number in range(DEFAULT_LABELS)}
    labels = tuple(names[number] for number in sorted(names, key=int))
    return {
        "final_bias": architecture == GENERATION,
        "labels": labels if architecture == CLASSIFICATION else (),
    }


def head_entries(labels: Sequence[str], *, final_bias: bool) -> dict[str, Any]:
    """HF's entries for what `head_of` reads; the inverse of it."""
    if not labels:
        return {"architectures": [GENERATION if final_bias else BODY]}
    return {
        "architectures": [CLASSIFICATION],
        "id2label": {str(number): name for number, name in enumerate(labels)},
        "label2id": {name: number for number, name in enumerate(labels)},
    }
