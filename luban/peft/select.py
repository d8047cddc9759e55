"""Train some of the model's own weights and leave the others: BitFit, and the last blocks.

What is trained stands in the model itself; a `Change` in each of its layers remembers what was there before. So a
selection is switched off, shared and taken off like any other adapter, and its file holds the trained tensors only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from luban.errors import ConfigError
from luban.nn import surgery
from luban.nn.norms import RMSNorm
from luban.nn.surgery import own_parameters
from luban.peft.adapter import Adapter, Stored, freeze

NORMS = (nn.LayerNorm, RMSNorm)
BIASED = ("bart", "bert", "bloom", "feedforward", "gpt2", "gru", "lstm", "mamba", "qwen2", "rnn", "rnnsearch",
          "roberta", "transformer", "vit")  # fmt: skip
"""Families whose layers have biases."""


@dataclass(frozen=True, kw_only=True)
class BitFitConfig:
    """Biases only."""

    train_norms: bool = False
    """Train the scales of norms as well, which families without biases have too."""


@dataclass(frozen=True, kw_only=True)
class LastBlocksConfig:
    """The blocks next to the output."""

    blocks: Annotated[int, Ge(1)] = 1
    """How many of them, counted from the last."""
    train_norm: bool = True
    """Train the norm after them as well."""
    train_head: bool = False
    """Train the head as well; where it is tied, that is the embedding too."""


class Change(Stored):
    """A layer's own weights, which are trained, and what they were: `share` says how much of the change is in them."""

    def __init__(self, trained: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        for end, value in trained.items():
            self.register_buffer(f"was_{end}", value.detach().clone(), persistent=False)
        # In dicts, so that they are no parameters or buffers of this part: the layer has them already.
        self._trained = dict(trained)
        self._resting: dict[str, Tensor] = {}
        self._share = 1.0

    @property
    def share(self) -> float:
        """See `Part.share`."""
        return self._share

    @share.setter
    def share(self, share: float) -> None:
        if share == self._share:
            return
        if self._share == 1.0:
            self._resting = {end: value.detach().clone() for end, value in self._trained.items()}
        for end, value in self._trained.items():
            # Through `.data`: a pass whose backward is still to come finds these bits again when it needs them.
            value.data.copy_(self._between(end, share))
        self._share = share
        if share == 1.0:
            self._resting = {}

    def tensors(self) -> dict[str, Tensor]:
        """See `Stored.tensors`; the whole weights, not what was added to them."""
        return dict(self._trained)

    def was(self, end: str) -> Tensor:
        """A weight, by the end of its name, before training."""
        return self.get_buffer(f"was_{end}")

    def _between(self, end: str, share: float) -> Tensor:
        was, trained = self.was(end), self._resting[end]
        if share in (0.0, 1.0):
            return trained if share else was
        return torch.lerp(was.float(), trained.float(), share).to(was.dtype)


class Selection(Adapter):
    """Some of the model's own weights, trained; `merge` has nothing to do, as the change is in them."""

    def merge(self, share: float = 1.0, *, for_good: bool = False) -> None:
        """Leave `share` of the change in the weights; `for_good` forgets what they were."""
        for layer, part in self.parts().values():
            part.share = share
            if for_good:
                surgery.detach(layer, self.name)

    def unmerge(self) -> None:
        """The whole change again."""
        for _, part in self.parts().values():
            part.share = 1.0

    def remove(self) -> None:
        """Put back the weights as they were, to the bit."""
        self.merge(0.0, for_good=True)
        freeze(self.model)


def choose(model: nn.Module, names: Iterable[str], name: str) -> None:
    """Let the model's own parameters of these `names`, and no others, be trained, each layer's under a `Change`."""
    by_layer: dict[str, dict[str, nn.Parameter]] = {}
    own = own_parameters(model)
    for whole in names:
        place, _, end = whole.rpartition(".")
        by_layer.setdefault(place, {})[end] = own[whole]
    freeze(model)
    for place, trained in by_layer.items():
        surgery.attach(model.get_submodule(place), name, Change(trained))
        for value in trained.values():
            value.requires_grad_(True)


def apply_bitfit(model: Any, config: BitFitConfig, *, name: str = "default") -> Adapter:
    """BitFit; raises ConfigError for a model without biases, unless its norms are trained.

    Source: Ben Zaken et al. 2022 (arXiv:2106.10199).
    """
    norms = {place for place, module in model.named_modules() if isinstance(module, NORMS)}
    names = [
        whole
        for whole in own_parameters(model)
        if whole.rpartition(".")[2] == "bias" or (config.train_norms and whole.rpartition(".")[0] in norms)
    ]
    if not names:
        what = f"a '{model.config.model_type}' model has no biases; families with: {', '.join(BIASED)}"
        raise ConfigError(what, where="bitfit", hint="train_norms=true trains the scales of its norms")
    choose(model, names, name)
    return Selection(model, "bitfit", config, name=name)


def apply_last_blocks(model: Any, config: LastBlocksConfig, *, name: str = "default") -> Adapter:
    """The last blocks (of an encoder-decoder: the decoder's); raises ConfigError if there are not so many."""
    if config.blocks > len(model.blocks):
        raise ConfigError(
            f"blocks is {config.blocks}; this model has {len(model.blocks)}", where="last_blocks"
        )
    modules = list(model.blocks[-config.blocks :])
    for wanted, place in ((config.train_norm, "norm"), (config.train_head, "head")):
        module = getattr(model, place, None)
        if wanted and module is None and place == "head":
            raise ConfigError("this model has no head to train", where="last_blocks", hint="train_head=false")
        modules += [module] if wanted and module is not None else []
    chosen = {parameter for module in modules for parameter in own_parameters(module).values()}
    choose(model, (whole for whole, value in own_parameters(model).items() if value in chosen), name)
    return Selection(model, "last_blocks", config, name=name)
