"""T5's files as Hugging Face lays them out: entries of config.json and names of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luban.models.base import reject_unsupported
from luban.models.names import Names

HF_ENTRIES = {
    "vocab_size": "vocab",
    "d_model": "dim",
    "d_kv": "head_dim",
    "d_ff": "hidden",
    "num_decoder_layers": "layers",
    "num_layers": "encoder_layers",
    "num_heads": "heads",
    "relative_attention_num_buckets": "buckets",
    "relative_attention_max_distance": "max_distance",
    "feed_forward_proj": "mlp",
    "layer_norm_epsilon": "norm_eps",
    "n_positions": "context",
    "tie_word_embeddings": "tied",
    "scale_decoder_outputs": "scaled",
    "decoder_start_token_id": "decoder_start_id",
    "bos_token_id": "bos_id",
    "eos_token_id": "eos_id",
    "pad_token_id": "pad_id",
}
HF_ACTIVATIONS = {"relu": "relu", "gated-gelu": "gelu_new"}
ATTENTION = ("q", "k", "v", "o")
MLP = {"wi": "wide", "wi_0": "gate", "wi_1": "up", "wo": "down"}


def _side(theirs: str, ours: str, *, mlp_layer: int) -> dict[str, str]:
    """Names of what both sides have, `mlp_layer` being the place of the MLP in HF's block."""
    blocks = f"{ours}blocks.*"
    return {
        **{
            f"{theirs}.block.*.layer.0.SelfAttention.{part}": f"{blocks}.attention.{part}"
            for part in ATTENTION
        },
        f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias": f"{ours}distances.table",
        f"{theirs}.block.*.layer.0.layer_norm": f"{blocks}.attention_norm",
        **{
            f"{theirs}.block.*.layer.{mlp_layer}.DenseReluDense.{part}": f"{blocks}.mlp.{name}"
            for part, name in MLP.items()
        },
        f"{theirs}.block.*.layer.{mlp_layer}.layer_norm": f"{blocks}.mlp_norm",
        f"{theirs}.final_layer_norm": f"{ours}norm",
    }


NAMES = Names(
    modules={
        "shared": "embedding",
        **_side("encoder", "encoder.", mlp_layer=1),
        **_side("decoder", "", mlp_layer=2),
        **{f"decoder.block.*.layer.1.EncDecAttention.{part}": f"blocks.*.cross.{part}" for part in ATTENTION},
        "decoder.block.*.layer.1.layer_norm": "blocks.*.cross_norm",
        "lm_head": "head",
    },
    prefix="",
    buffers=("EncDecAttention.relative_attention_bias.weight",),
    copies=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
)


def refuse_other_models(config: Mapping[str, Any]) -> None:
    """Raise ModelError for an HF config that says something which is not computed here."""
    kind = str(config.get("feed_forward_proj") or "relu")
    only = {
        "architectures": (["T5ForConditionalGeneration"], ["T5WithLMHeadModel"]),
        "is_encoder_decoder": (True,),
        "is_decoder": (False,),
        "feed_forward_proj": tuple(HF_ACTIVATIONS),
        "dense_act_fn": (HF_ACTIVATIONS.get(kind),),
        "is_gated_act": (kind.startswith("gated"),),
    }
    reject_unsupported(config, only)
