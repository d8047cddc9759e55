"""Soft prompts: embeddings of no word, learnt, that the model reads before every text.

In prompt tuning they are learnt as they are; in P-tuning a small network makes them out of what is learnt, so that
they learn together. The network is for training: a file holds the embeddings that come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from jaxtyping import Float
from torch import Tensor, nn

from luban.nn.cache import Cache
from luban.peft.adapter import Adapter
from luban.peft.prepended import SHAPES, Hidden, Prepended, Prompt, Widened, check, prepend, words

PROMPT_IGNORED = (*SHAPES, "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path",
                  "tokenizer_kwargs")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PromptTuningConfig:
    """A soft prompt."""

    num_virtual_tokens: Annotated[int, Ge(1)] = 20
    """How many embeddings are learnt; each takes a place of the model's window."""
    prompt_tuning_init: Literal["SAMPLE_VOCAB", "RANDOM"] = "SAMPLE_VOCAB"
    """Begin with embeddings of tokens, or with noise."""
    init_ids: tuple[int, ...] = ()
    """The tokens to begin with, over and over: a description of the task; none takes tokens at random."""


@dataclass(frozen=True, kw_only=True)
class PTuningConfig:
    """A soft prompt that a network makes."""

    num_virtual_tokens: Annotated[int, Ge(1)] = 20
    """How many embeddings the prompt has; each takes a place of the model's window."""
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """Make each embedding by itself, or in sight of the others, read in both directions."""
    encoder_hidden_size: Annotated[int, Ge(0)] = 0
    """Width of the network; 0 means the model's."""
    encoder_num_layers: Annotated[int, Ge(1)] = 2
    """Layers of the LSTM."""
    encoder_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of what goes between them that training leaves out."""


class SoftPrompt(Prompt):
    """Embeddings, and the network that makes them where there is one."""

    def __init__(self, start: Float[Tensor, "length dim"], encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.length = len(start)
        self.start = nn.Parameter(start.detach().float().clone())
        self.encoder = encoder

    def embeddings(self) -> Float[Tensor, "length dim"]:
        """What the model reads."""
        return self.start if self.encoder is None else self.encoder(self.start)

    def read(
        self, hidden: Hidden, x: Tensor, positions: Tensor, widened: Widened, slots: Cache | None
    ) -> Float[Tensor, "batch seq dim"]:
        """See `Prompt.read`."""
        places = widened.widen(self._positions(), positions.expand(x.shape[:2]))
        return widened.narrow(hidden(None, places, slots, widened.widen(self.embeddings()[None], x)))

    def begin(self, hidden: Hidden, slots: Cache, batch: int, dtype: torch.dtype) -> None:
        """See `Prompt.begin`."""
        prompt = self.embeddings().to(dtype).expand(batch, -1, -1)
        hidden(None, self._positions().expand(batch, -1), slots, prompt)

    def tensors(self) -> dict[str, Tensor]:
        """See `Stored.tensors`; of a network, what it makes."""
        training = self.training
        self.eval()
        made = self.embeddings()
        self.train(training)
        return {"prompt_embeddings": made}

    def settle(self) -> None:
        """See `Prompt.settle`."""
        if self.encoder is not None:
            self.start, self.encoder = nn.Parameter(self.embeddings().detach().clone()), None

    def _positions(self) -> Tensor:
        return torch.arange(self.length, device=self.start.device)[None]


class ReadBothWays(nn.Module):
    """An LSTM over the prompt in both directions, then an MLP.

    Source: Liu et al. 2021, section 3.2 (arXiv:2103.10385).
    """

    def __init__(self, dim: int, hidden: int, config: PTuningConfig) -> None:
        super().__init__()
        layers, dropout = config.encoder_num_layers, config.encoder_dropout
        self.lstm = nn.LSTM(dim, hidden, layers, dropout=dropout, bidirectional=True)
        self.mlp = nn.Sequential(nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, dim))

    def forward(self, start: Float[Tensor, "length dim"]) -> Float[Tensor, "length dim"]:
        return self.mlp(self.lstm(start)[0])


def _encoder(dim: int, config: PTuningConfig) -> nn.Module:
    hidden = config.encoder_hidden_size or dim
    if config.encoder_reparameterization_type == "LSTM":
        return ReadBothWays(dim, hidden, config)
    inner = (nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
    return nn.Sequential(*inner, nn.Linear(hidden, dim))


class PromptTuning(Prepended):
    """An adapter whose file says nothing of where its prompt began."""

    def entries(self, names: Mapping[str, str]) -> dict[str, Any]:
        """See `Adapter.entries`."""
        entries = super().entries(names)
        del entries["init_ids"]
        return entries


class PTuning(Prepended):
    """An adapter whose prompt a network makes while it is trained."""

    def entries(self, names: Mapping[str, str]) -> dict[str, Any]:
        """See `Adapter.entries`."""
        size = self.config.encoder_hidden_size or self.model.config.dim
        return {**super().entries(names), "encoder_hidden_size": size}


def apply_prompt_tuning(model: Any, config: PromptTuningConfig, *, name: str = "default") -> Adapter:
    """A soft prompt; raises ConfigError for a model that does not continue text.

    Source: Lester et al. 2021, section 2 (arXiv:2104.08691).
    """
    check(model)
    start = torch.randn(config.num_virtual_tokens, model.embedding.embedding_dim)
    if config.prompt_tuning_init == "SAMPLE_VOCAB":
        ids = words(model, config.num_virtual_tokens, config.init_ids)
        start = model.embedding.weight[ids.to(model.embedding.weight.device)]
    prepend(model, SoftPrompt(start), name)
    return PromptTuning(model, "prompt_tuning", config, name=name)


def apply_p_tuning(model: Any, config: PTuningConfig, *, name: str = "default") -> Adapter:
    """A soft prompt that a network makes; raises ConfigError for a model that does not continue text.

    Source: Liu et al. 2021 (arXiv:2103.10385), with the prompt before the text and the network of `peft`.
    """
    check(model)
    dim = model.embedding.embedding_dim
    prepend(model, SoftPrompt(torch.randn(config.num_virtual_tokens, dim), _encoder(dim, config)), name)
    return PTuning(model, "p_tuning", config, name=name)
