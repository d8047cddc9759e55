"""ViT: an image as a sequence of patches, read by an encoder whose norms come before.

The state of a class token, put before the patches, stands for the whole image. Its patches' states can also be
another model's embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from luban.errors import ModelError, PromptError, nearest
from luban.models.base import (
    Shape,
    dtype_entry,
    from_entries,
    labels_as_entries,
    labels_entry,
    reject_unsupported,
)
from luban.models.names import Names
from luban.nn.attention import Attention
from luban.nn.cache import Bidirectional, Cache, LayerCache
from luban.nn.init import initialise
from luban.nn.linear import Linear
from luban.nn.mlp import MLP, Activation

HF_ENTRIES = {
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "hidden_act": "activation",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "num_channels": "channels",
    "qkv_bias": "qkv_bias",
    "layer_norm_eps": "norm_eps",
    "add_pooling_layer": "pooler",
}
SUPPORTED = {"pooler_act": ("tanh",)}
CLASSIFIER, ENCODER = "ViTForImageClassification", "ViTModel"
LAYER = "vit.encoder.layer.*"
NAMES = Names(
    modules={
        "vit.embeddings.cls_token": "class_token",
        "vit.embeddings.position_embeddings": "positions",
        "vit.embeddings.patch_embeddings.projection": "patches",
        f"{LAYER}.layernorm_before": "blocks.*.attention_norm",
        f"{LAYER}.attention.attention.query": "blocks.*.attention.q",
        f"{LAYER}.attention.attention.key": "blocks.*.attention.k",
        f"{LAYER}.attention.attention.value": "blocks.*.attention.v",
        f"{LAYER}.attention.output.dense": "blocks.*.attention.o",
        f"{LAYER}.layernorm_after": "blocks.*.mlp_norm",
        f"{LAYER}.intermediate.dense": "blocks.*.mlp.up",
        f"{LAYER}.output.dense": "blocks.*.mlp.down",
        "vit.layernorm": "norm",
        "vit.pooler.dense": "pooler",
        "classifier": "classifier",
    },
    prefix="vit.",
    buffers=(),
)


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The numbers of one vision Transformer."""

    model_type: Literal["vit"] = "vit"
    """Hugging Face's name of the family."""
    image_size: Annotated[int, Ge(1)] = 224
    """Height and width of an image, in pixels."""
    patch_size: Annotated[int, Ge(1)] = 16
    """Height and width of a patch, in pixels."""
    channels: Annotated[int, Ge(1)] = 3
    """Numbers per pixel."""
    dim: Annotated[int, Ge(1)]
    """Width of the residual stream."""
    layers: Annotated[int, Ge(1)]
    """Blocks."""
    heads: Annotated[int, Ge(1)]
    """Attention heads."""
    hidden: Annotated[int, Ge(0)] = 0
    """Width inside the MLP; 0 means 4 times `dim`."""
    activation: Activation = "gelu"
    """Inside the MLP."""
    qkv_bias: bool = True
    """Whether queries, keys and values have biases."""
    norm_eps: Annotated[float, Gt(0)] = 1e-12
    """Added to the variance before its root is taken."""
    labels: tuple[str, ...] = ()
    """What an image is told to be one of; none means an encoder without classifier."""
    pooler: bool = True
    """Whether an encoder without classifier has a pooler."""
    dtype: str = "float32"
    """Type of the weights: float32, bfloat16, float16."""

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ModelError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.image_size % self.patch_size:
            raise ModelError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)
        object.__setattr__(self, "pooler", self.pooler and not self.labels)

    @property
    def context(self) -> int:
        """Length of the sequence: the class token and the patches."""
        return 1 + (self.image_size // self.patch_size) ** 2

    @property
    def vocab(self) -> int:
        """How many labels there are to choose from."""
        return len(self.labels)

    @property
    def kv_heads(self) -> int:
        return self.heads

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def tied(self) -> bool:
        return False

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read an HF `config.json`; raises ModelError naming a missing or unsupported entry."""
        pooled = {"pooler_output_size": (config.get("hidden_size"),)}
        reject_unsupported(config, {**SUPPORTED, **pooled})
        architecture = (config.get("architectures") or [ENCODER])[0]
        if architecture not in (CLASSIFIER, ENCODER):
            what = f"architecture '{architecture}'; {nearest(architecture, [CLASSIFIER, ENCODER])}"
            raise ModelError(what, where="config.json")
        labels = labels_entry(config) if architecture == CLASSIFIER else ()
        return from_entries(cls, config, HF_ENTRIES, labels=labels, dtype=dtype_entry(config))

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new encoder's config for images of 224 x 224 in patches of 16 x 16; it has no words and no context."""
        heads = shape.ungrouped_heads()
        return cls(dim=shape.dim, layers=shape.layers, heads=heads, hidden=shape.hidden)

    def to_hf(self) -> dict[str, Any]:
        """HF's `config.json`. Nothing is dropped out in training here, and it says so."""
        return {
            "architectures": [CLASSIFIER if self.labels else ENCODER],
            "model_type": self.model_type,
            **{entry: getattr(self, field) for entry, field in HF_ENTRIES.items()},
            **(labels_as_entries(self.labels) if self.labels else {}),
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "dtype": self.dtype,
            "torch_dtype": self.dtype,
        }


class Block(nn.Module):
    """Attention, then MLP, each on the normed stream and added to it."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(
            config.dim,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            qkv_bias=config.qkv_bias,
            out_bias=True,
        )
        self.mlp_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config.dim, config.hidden, config.activation)

    def forward(self, x: Float[Tensor, "batch seq dim"], slot: LayerCache) -> Float[Tensor, "batch seq dim"]:
        x = x + self.attention(self.attention_norm(x), slot=slot)
        return x + self.mlp(self.mlp_norm(x))


class ViT(nn.Module):
    """A vision Transformer.

    Source: Dosovitskiy et al. 2021, section 3.1 (arXiv:2010.11929).
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.positions = nn.Parameter(torch.empty(1, config.context, config.dim))
        self.patches = nn.Conv2d(config.channels, config.dim, config.patch_size, stride=config.patch_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.pooler = Linear(config.dim, config.dim) if config.pooler else None
        self.classifier = Linear(config.dim, len(config.labels)) if config.labels else None
        initialise(self, layers=config.layers)
        if not self.positions.is_meta:
            nn.init.normal_(self.positions, std=0.02)

    def hidden(
        self, images: Float[Tensor, "batch channels height width"], cache: Cache | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        """States after the last norm: the class token's, then the patches', line by line.

        Raises PromptError for images of another size than the model's.
        """
        self._reject_size(images)
        patches = self.patches(images).flatten(2).transpose(1, 2)  # [batch, patches, dim]
        x = torch.cat([self.class_token.expand(len(images), -1, -1), patches], 1) + self.positions
        for block, slot in zip(self.blocks, cache or [Bidirectional()] * len(self.blocks), strict=True):
            x = block(x, slot)
        return self.norm(x)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch labels"]:
        """Logits of the labels, from the class token's state; raises ModelError if the model has none."""
        if self.classifier is None:
            raise ModelError("the model has no classifier: its config has no labels", where="config.json")
        return self.classifier(self.hidden(images)[:, 0])

    def pooled(self, states: Float[Tensor, "batch seq dim"]) -> Float[Tensor, "batch dim"]:
        """The image as one vector: the class token's state through the pooler, where the model has one."""
        if self.pooler is None:
            raise ModelError("the model has no pooler", where="config.json")
        return self.pooler(states[:, 0]).tanh()

    def _reject_size(self, images: Tensor) -> None:
        wanted = (self.config.channels, self.config.image_size, self.config.image_size)
        if tuple(images.shape[1:]) != wanted:
            given, read = (" x ".join(map(str, size)) for size in (images.shape[1:], wanted))
            raise PromptError(f"images of {given}; the model reads {read} (channels, height, width)")
