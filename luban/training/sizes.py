"""A model as a planner sees it: how many numbers it has, how much arithmetic a token costs, what its blocks are.

It comes from a folder, a published name, an `architecture`, or plain numbers out of a paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luban.errors import ConfigError
from luban.training.memory import Block

HEAD_DIM = 128
"""Width of a head where plain numbers do not say it, as GPT-3's (Brown et al. 2020, table 2.1, arXiv:2005.14165)."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The numbers of one decoder."""

    parameters: float
    layers: int
    vocab: int
    tied: bool
    block: Block
    block_parameters: float
    """Weights of one block, all experts with it."""
    block_matrices: float
    """Weights of one block that multiply a token."""
    shared: bool = True
    """Whether devices can share its layers (tensor parallel)."""
    staged: bool = True
    """Whether it can be cut into stages (pipeline)."""

    @property
    def head_parameters(self) -> float:
        """Weights of the embedding, and as many of the head."""
        return self.vocab * self.block.dim

    def block_flops(self, seq: int) -> float:
        """FLOPs of one token forward through one block, in rows of `seq`; a causal query sees half of them."""
        return 2 * self.block_matrices + 2 * self.block.heads * self.block.head_dim * seq

    @property
    def head_flops(self) -> float:
        """FLOPs of one token's logits."""
        return 2 * self.head_parameters

    def flops(self, seq: int) -> float:
        """FLOPs of one token forward and backward, without what is computed again (6 N + attention)."""
        return 3 * (self.layers * self.block_flops(seq) + self.head_flops)


def sizes_of(config: Any) -> Sizes:
    """The sizes of a decoder of the LLaMA, GPT-2 or BLOOM wiring; raises ConfigError for another family."""
    from luban.models import FAMILIES
    from luban.models.bloom import BloomConfig
    from luban.models.gpt2 import GPT2Config
    from luban.models.llama import LlamaConfig
    from luban.training.flops import body_parameters

    if not isinstance(config, LlamaConfig | GPT2Config | BloomConfig):
        what = f"how a '{config.model_type}' model spreads over devices is not known here"
        raise ConfigError(
            what, where="setting 'cluster'", hint="without a cluster it is planned for this machine"
        )
    parameters = count(config)
    ends = config.vocab * config.dim * (1 if config.tied else 2)
    gated = isinstance(config, LlamaConfig)
    return Sizes(
        parameters=parameters,
        layers=config.layers,
        vocab=config.vocab,
        tied=config.tied,
        block=Block(
            dim=config.dim,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            hidden=config.hidden * max(1, getattr(config, "experts_per_token", 0)),
            gated=gated,
            mask_rows=config.heads if isinstance(config, BloomConfig) else 1,
        ),
        block_parameters=(parameters - ends) / config.layers,
        block_matrices=body_parameters(config) / config.layers,
        shared=FAMILIES[config.model_type].tp_plan is not None,
        staged=not getattr(config, "experts", 0),  # `parallel/stages.py` says why
    )


def count(config: Any) -> int:
    """Parameters of a model of this config, counted without memory."""
    import torch

    from luban.models import FAMILIES
    from luban.models.base import parameter_count

    with torch.device("meta"):
        return parameter_count(FAMILIES[config.model_type].model(config))


def plain_sizes(*, params: float, layers: int, dim: int, heads: int = 0, vocab: int) -> Sizes:
    """A GPT of `params` parameters in all, as a paper states them: an MLP of four times `dim`, a tied head.

    Weights are what was told; a block has its equal share of what the embedding leaves. Raises ConfigError where
    nothing is left.
    """
    heads = heads or max(1, dim // HEAD_DIM)
    if dim % heads:
        raise ConfigError(f"dim {dim} is not a multiple of heads {heads}", where="setting 'heads'")
    share = (params - vocab * dim) / layers
    if share <= 0:
        told = f"{params:,.0f} parameters are fewer than the embedding's {vocab} x {dim}"
        raise ConfigError(told, where="setting 'params'")
    block = Block(dim=dim, heads=heads, kv_heads=heads, head_dim=dim // heads, hidden=4 * dim, gated=False)
    return Sizes(
        parameters=params,
        layers=layers,
        vocab=vocab,
        tied=True,
        block=block,
        block_parameters=share,
        block_matrices=share,
    )
