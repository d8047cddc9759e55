"""What each device must hold to train a model, by part: formulas only, no torch.

Model states (weights, gradients, optimizer) follow from the parameters, activations from the tokens in flight. How
they divide among devices is what data (ZeRO), tensor and pipeline parallelism are for. `saved.py` finds one
device's activations exactly; the formula here is for devices that are not there, and a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Precision = Literal["mixed", "autocast", "float32"]


class StateBytes(NamedTuple):
    """Bytes a parameter costs."""

    weights: int
    gradients: int
    optimizer: int


STATE_BYTES: dict[Precision, StateBytes] = {
    # Half-precision weights and gradients; float32 weights and two moments with the optimizer: 16 bytes.
    # Rajbhandari et al. 2020, section 3.1 (arXiv:1910.02054).
    "mixed": StateBytes(2, 2, 12),
    # What `loop.precision=bfloat16` does: float32 weights, of which torch.autocast makes half-precision copies.
    "autocast": StateBytes(4 + 2, 4, 8),
    "float32": StateBytes(4, 4, 8),
}

ACTIVATION_BYTES: dict[Precision, int] = {"mixed": 2, "autocast": 2, "float32": 4}

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Bits of a quantised weight: its code, its share of a scale and of the scale's range (4.127); see `nn.quantize`.

Source: Dettmers et al. 2023, section 3 (arXiv:2305.14314); a test holds it to the bytes of a layer.
"""

CHUNK_TOKENS = 512
"""Logits exist for so many tokens at a time (`losses.CHUNK_TOKENS`; a test holds them equal)."""

LOGIT_COPIES = 3
"""Chunks of float32 logits at once: the logits, what logsumexp makes of them, its exponentials."""

QUICK_LOGIT_COPIES = 2
"""The same where the softmax is one pass (`nn/passes`): the logits, and their gradient with its axes exchanged."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One decoder block's widths."""

    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    """Width of the MLP that a token goes through; of all its experts together."""
    gated: bool = True
    mask_rows: int = 1
    """Rows of attention's mask: one for all heads, or one for each where scores are biased (ALiBi)."""
    norm_tensors: int = 2
    """Tensors that a norm leaves behind: its input and output, which is made again on a CPU (`nn/remade`)."""
    gate_tensors: int = 3
    """Tensors that a gated MLP leaves behind: its two halves and their product, made again on a CPU."""


def state_bytes(
    parameters: float, *, precision: Precision = "mixed", zero: int = 0, copies: int = 1
) -> dict[str, float]:
    """Bytes on one device of weights, gradients and optimizer, shared out among `copies` as ZeRO `zero` says.

    Source: Rajbhandari et al. 2020, figure 1 (arXiv:1910.02054): level 1 shares out the optimizer's state, 2 also
    gradients, 3 also weights.
    """
    sizes = STATE_BYTES[precision]
    shared = {"weights": zero >= 3, "gradients": zero >= 2, "optimizer": zero >= 1}
    return {
        part: parameters * size / (copies if shared[part] else 1)
        for part, size in zip(shared, sizes, strict=True)
    }


def adapted_bytes(
    *, quantised: float = 0, kept: float, trained: float, number_bytes: int = 4, paged: bool = False
) -> dict[str, float]:
    """Bytes of training a few weights: `quantised` ones in NF4, `kept` ones of `number_bytes` each, frozen both.

    The `trained` ones are float32, with a gradient and two moments, which are in a file where `paged`. Activations
    are those of the whole model.
    """
    return {
        "weights": quantised * NF4_BITS / 8 + kept * number_bytes + trained * 4,
        "gradients": trained * 4,
        "optimizer": 0 if paged else trained * 8,
    }


def block_numbers(block: Block, *, seq: int, tp: int = 1) -> float:
    """Numbers that one token leaves in a block for the gradients, on one of `tp` devices that share the block.

    Kept whole on each: two norms' tensors and the row of the documents' mask, which every attention turns to numbers.
    Divided: q, k, v, attention's output and log-sum, and the MLP's (gate, up and product; else up and bend).

    Source: counted as Korthikanti et al. 2022, section 4.1 (arXiv:2205.05198), for blocks without dropout whose
    attention never forms its weights; tensor parallel without their sequence parallelism.
    """
    whole = 2 * block.norm_tensors * block.dim + block.mask_rows * seq
    attention = (2 * block.heads + 2 * block.kv_heads) * block.head_dim + block.heads
    mlp = (block.gate_tensors if block.gated else 2) * block.hidden
    return whole + (attention + mlp) / tp


def activation_bytes(
    block: Block,
    *,
    tokens: int,
    seq: int,
    layers: float,
    tp: int = 1,
    in_flight: float = 1,
    recompute: bool = False,
    precision: Precision = "mixed",
) -> float:
    """Bytes of activations of `layers` blocks for `in_flight` micro-batches of `tokens` each.

    With `recompute` a block keeps its input, and one block at a time all the rest (Chen et al. 2016, arXiv:1604.06174).
    """
    number = ACTIVATION_BYTES[precision]
    per_block = number * tokens * block_numbers(block, seq=seq, tp=tp)
    if not recompute:
        return layers * in_flight * per_block
    return layers * in_flight * number * tokens * block.dim + per_block


def micro_batches_in_flight(stages: int, micro_batches: int, *, chunks: int = 1) -> float:
    """Micro-batches whose activations the first stage of a 1F1B pipeline holds at once; a chunk counts as its share.

    Source: Korthikanti et al. 2022, section 4.2.3 (arXiv:2205.05198): interleaved it is 1 + (p-1)/(p v) times p.
    """
    if stages == 1:
        return 1
    filling = stages + (stages - 1) / chunks if chunks > 1 else stages
    return min(filling, micro_batches)


def logits_bytes(vocab: int, tokens: int, *, tp: int = 1, copies: int = LOGIT_COPIES) -> float:
    """Bytes of the loss's chunks of float32 logits; the loss never holds more."""
    return 4 * copies * min(CHUNK_TOKENS, tokens) * vocab / tp


def cache_bytes(block: Block, *, layers: int, tokens: int, number_bytes: int = 2) -> int:
    """Bytes of keys and values that generating needs for `tokens` tokens in all rows together."""
    return 2 * layers * block.kv_heads * block.head_dim * tokens * number_bytes


def original_activation_bytes(
    *, dim: int, heads: int, seq: int, rows: int, tp: int = 1, sequence_parallel: bool = False
) -> float:
    """Bytes of one GPT block in 16 bits with dropout and attention's weights kept, as the paper counts them.

    Source: Korthikanti et al. 2022, equations 1, 2 and 4 (arXiv:2205.05198).
    """
    whole, shared = (0.0, 34.0) if sequence_parallel else (10.0, 24.0)
    return seq * rows * dim * (whole + (shared + 5 * heads * seq / dim) / tp)
