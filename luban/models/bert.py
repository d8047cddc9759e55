"""BERT: an encoder that sees both sides of every word, with the heads it is pretrained by.

The norm comes after each sum; words, positions and segments are learned embeddings, added. Which heads a model
has is its `architecture`, by Hugging Face's names; heads for tasks are in `headed.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from luban.errors import ModelError, PromptError, nearest
from luban.models.base import Shape, dtype_entry, from_entries, reject_unsupported
from luban.models.names import Names
from luban.nn.attention import Attention
from luban.nn.cache import Bidirectional, Cache, LayerCache
from luban.nn.init import initialise, unset_embedding
from luban.nn.linear import Linear
from luban.nn.mlp import ACTIVATIONS, MLP, Activation

HF_ENTRIES = {
    "vocab_size": "vocab",
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "hidden_act": "activation",
    "max_position_embeddings": "context",
    "type_vocab_size": "segments",
    "layer_norm_eps": "norm_eps",
    "add_pooling_layer": "pooler",
    "bos_token_id": "bos_id",
    "eos_token_id": "eos_id",
    "pad_token_id": "pad_id",
}
SUPPORTED = {
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "position_embedding_type": ("absolute",),
    "tie_word_embeddings": (True,),
}
Architecture = Literal[
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertModel",
    "RobertaForMaskedLM",
    "RobertaModel",
]
ARCHITECTURES: Mapping[Architecture, frozenset[str]] = {
    "BertForPreTraining": frozenset({"pooler", "word_head", "pair_head"}),
    "BertForMaskedLM": frozenset({"word_head"}),
    "BertForNextSentencePrediction": frozenset({"pooler", "pair_head"}),
    "BertModel": frozenset({"pooler"}),
    "RobertaForMaskedLM": frozenset({"word_head"}),
    "RobertaModel": frozenset({"pooler"}),
}
"""What stands on the encoder, by the class in HF that has the same."""
LAYER = "bert.encoder.layer.*"
NAMES = Names(
    modules={
        "bert.embeddings.word_embeddings": "embedding",
        "bert.embeddings.position_embeddings": "positions",
        "bert.embeddings.token_type_embeddings": "segments",
        "bert.embeddings.LayerNorm": "embedding_norm",
        f"{LAYER}.attention.self.query": "blocks.*.attention.q",
        f"{LAYER}.attention.self.key": "blocks.*.attention.k",
        f"{LAYER}.attention.self.value": "blocks.*.attention.v",
        f"{LAYER}.attention.output.dense": "blocks.*.attention.o",
        f"{LAYER}.attention.output.LayerNorm": "blocks.*.attention_norm",
        f"{LAYER}.intermediate.dense": "blocks.*.mlp.up",
        f"{LAYER}.output.dense": "blocks.*.mlp.down",
        f"{LAYER}.output.LayerNorm": "blocks.*.mlp_norm",
        "bert.pooler.dense": "pooler",
        "cls.predictions.transform.dense": "head.transform",
        "cls.predictions.transform.LayerNorm": "head.norm",
        "cls.predictions.bias": "head.bias",
        "cls.seq_relationship": "pair_head",
    },
    prefix="bert.",
    # The decoder's bias is another name of `cls.predictions.bias`.
    buffers=("embeddings.position_ids", "cls.predictions.decoder.bias"),
    head="cls.predictions.decoder.weight",
    older={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
)
TP_PLAN = {
    "embedding|head": "vocabulary",
    "blocks.*.attention.q|k|v": "column",
    "blocks.*.attention.o": "row",
    "blocks.*.mlp.up": "column",
    "blocks.*.mlp.down": "row",
}


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The numbers of one BERT."""

    encoder_alone: ClassVar[Architecture] = "BertModel"
    """Without heads of pretraining."""
    model_type: Literal["bert", "roberta"] = "bert"
    """Hugging Face's name of the family."""
    architecture: Architecture = "BertForPreTraining"
    """Which heads stand on the encoder."""
    vocab: Annotated[int, Ge(1)]
    """Number of token ids."""
    dim: Annotated[int, Ge(1)]
    """Width of the residual stream."""
    layers: Annotated[int, Ge(1)]
    """Blocks."""
    heads: Annotated[int, Ge(1)]
    """Attention heads."""
    hidden: Annotated[int, Ge(0)] = 0
    """Width inside the MLP; 0 means 4 times `dim`."""
    activation: Activation = "gelu"
    """Inside the MLP and the head for words."""
    context: Annotated[int, Ge(1)]
    """Number of learned positions: the longest sequence, in tokens."""
    segments: Annotated[int, Ge(1)] = 2
    """Number of learned segments: texts told apart in one sequence."""
    norm_eps: Annotated[float, Gt(0)] = 1e-12
    """Added to the variance before its root is taken."""
    pooler: bool = True
    """Whether a BertModel has its pooler; of the others the architecture decides."""
    tied: bool = True
    """The head for words shares the embedding; there is no BERT in which it does not."""
    bos_id: int | None = None
    """Id that begins a sequence: [CLS]."""
    eos_id: int | tuple[int, ...] | None = None
    """Id that ends each text: [SEP]."""
    pad_id: int | None = None
    """Id that fills up shorter rows."""
    dtype: str = "float32"
    """Type of the weights: float32, bfloat16, float16."""

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ModelError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if not self.tied:
            raise ModelError("tied is False; BERT's head for words is its embedding")
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)
        if self.architecture != self.encoder_alone:
            object.__setattr__(self, "pooler", "pooler" in ARCHITECTURES[self.architecture])

    @property
    def word_head(self) -> bool:
        """Whether the model says what a hidden word was."""
        return "word_head" in ARCHITECTURES[self.architecture]

    @property
    def pair_head(self) -> bool:
        """Whether the model says if a second text follows the first."""
        return "pair_head" in ARCHITECTURES[self.architecture]

    @property
    def first_position(self) -> int:
        """Which of the learned positions is a sequence's first."""
        return 0

    @property
    def kv_heads(self) -> int:
        return self.heads

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read an HF `config.json`; raises ModelError naming a missing or unsupported entry."""
        reject_unsupported(config, SUPPORTED)
        architecture = (config.get("architectures") or ["BertForPreTraining"])[0]
        if architecture not in ARCHITECTURES:
            what = f"architecture '{architecture}'; {nearest(architecture, ARCHITECTURES)}"
            raise ModelError(what, where="config.json")
        return from_entries(cls, config, HF_ENTRIES, architecture=architecture, dtype=dtype_entry(config))

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new model's config, with both heads of pretraining: heads of 64, an MLP 4 times as wide as the stream."""
        numbers: dict[str, Any] = dataclasses.asdict(shape)
        del numbers["kv_heads"]
        numbers["heads"] = shape.ungrouped_heads()
        return cls(**numbers)

    def to_hf(self) -> dict[str, Any]:
        """HF's `config.json`. Nothing is dropped out in training here, and it says so."""
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            **{entry: getattr(self, field) for entry, field in HF_ENTRIES.items()},
            "tie_word_embeddings": self.tied,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "dtype": self.dtype,
            "torch_dtype": self.dtype,
        }


class Block(nn.Module):
    """Attention, then MLP, each added to the stream, which is normed after."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(
            config.dim,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            qkv_bias=True,
            out_bias=True,
        )
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config.dim, config.hidden, config.activation)
        self.mlp_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)

    def forward(self, x: Float[Tensor, "batch seq dim"], slot: LayerCache) -> Float[Tensor, "batch seq dim"]:
        x = self.attention_norm(x + self.attention(x, slot=slot))
        return self.mlp_norm(x + self.mlp(x))


class WordHead(Linear):
    """What a hidden word was, out of its state: one more layer, then the embedding's weight, with a bias."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config.dim, config.vocab)
        self.transform = Linear(config.dim, config.dim)
        self.activation = ACTIVATIONS[config.activation]
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)

    def transformed(self, states: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """What is compared with each word's embedding."""
        return self.norm(self.activation(self.transform(states)))

    def forward(self, input: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:  # noqa: A002 - nn.Linear's
        return super().forward(self.transformed(input))


class Bert(nn.Module):
    """A BERT. Called as decoders are (`hidden`, `.blocks`, `.embedding`), but it generates nothing.

    Source: Devlin et al. 2019, section 3 (arXiv:1810.04805).
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = unset_embedding(config.vocab, config.dim)
        self.positions = unset_embedding(config.first_position + config.context, config.dim)
        self.segments = unset_embedding(config.segments, config.dim)
        self.embedding_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.pooler = Linear(config.dim, config.dim) if config.pooler else None
        self.head = WordHead(config) if config.word_head else None
        self.pair_head = Linear(config.dim, 2) if config.pair_head else None
        self.tie()
        initialise(self, layers=config.layers)

    def tie(self) -> None:
        """Share the embedding's weight with the head for words."""
        if self.head is not None:
            self.head.weight = self.embedding.weight

    def keep_encoder(self, *, pooler: bool) -> None:
        """Drop the heads of pretraining, and the pooler if not wanted.

        Raises ModelError if it is wanted and not there.
        """
        if pooler:
            self._part("pooler")
        self.head = self.pair_head = None
        self.pooler = self.pooler if pooler else None
        self.config = dataclasses.replace(self.config, architecture=self.config.encoder_alone, pooler=pooler)

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"] | None,
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
        embeds: Float[Tensor, "batch seq dim"] | None = None,
        segments: Int[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """States after the last block; all tokens see each other, unless the slots of `cache` say otherwise.

        `segments` defaults to 0 everywhere. Raises PromptError past the last position or segment.
        """
        x = self.embedding(tokens) if embeds is None else embeds
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
        if segments is None:
            segments = torch.zeros_like(positions)
        _reject_beyond(positions, self.config.context, "position")
        _reject_beyond(segments, self.config.segments, "segment")
        places = self.positions(positions + self.config.first_position)
        x = self.embedding_norm(x + places + self.segments(segments))
        for block, slot in zip(self.blocks, cache or [Bidirectional()] * len(self.blocks), strict=True):
            x = block(x, slot)
        return x

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        segments: Int[Tensor, "batch seq"] | None = None,
        valid: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """For each place, the logits of the word that stands or stood there; raises ModelError without that head."""
        return self._part("head")(self.hidden(tokens, cache=self.padded(valid), segments=segments))

    def padded(self, valid: Bool[Tensor, "batch seq"] | None) -> Cache:
        """Slots for a pass in which nobody sees padding, where `valid` is False."""
        return [Bidirectional(valid)] * len(self.blocks)

    def isolate(self, documents: Int[Tensor, "batch seq"]) -> Cache:
        """Slots for a pass over packed rows in which documents do not see each other."""
        return [Bidirectional(documents=documents)] * len(self.blocks)

    def pooled(self, states: Float[Tensor, "batch seq dim"]) -> Float[Tensor, "batch dim"]:
        """The sequence as one vector: the first token's state through the pooler."""
        return self._part("pooler")(states[:, 0]).tanh()

    def follows(self, states: Float[Tensor, "batch seq dim"]) -> Float[Tensor, "batch 2"]:
        """Logits of whether the second text follows the first: 0 it does, 1 it does not."""
        return self._part("pair_head")(self.pooled(states))

    def _part(self, name: str) -> nn.Module:
        part = getattr(self, name)
        if part is None:
            raise ModelError(f"a {self.config.architecture} has no {name}", where="config.json")
        return part


def _reject_beyond(ids: Int[Tensor, "batch seq"], known: int, name: str) -> None:
    """Raise PromptError for an id that is not among the `known` ones.

    Elsewhere than on a CPU, looking at the numbers would make the host wait; the lookup itself fails there.
    """
    if not ids.is_cpu or torch.compiler.is_compiling() or not ids.numel():
        return
    largest = int(ids.max())
    if largest >= known:
        raise PromptError(
            f"{name} {largest} is beyond the {known} {name}s this model has learned",
            hint="a shorter text" if name == "position" else None,
        )
