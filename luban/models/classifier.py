"""Scores of a text: which class it is of, how good it is, or what it is worth. One head for any causal or masked model.

With several labels it is the classifier that `luban classify` trains; with one, a reward model or a critic. A
decoder is read at its last real token, the only one that has seen the whole text; an encoder at its pooled first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from luban.models.headed import Headed, problem_of
from luban.nn.cache import Cache


class Classifier(Headed):
    """A backbone with a `score` for each label, or for each place of a text.

    Folders are HF's `...ForSequenceClassification`.

    Source: Devlin et al. 2019, section 4.1 (arXiv:1810.04805); Radford et al. 2018 (GPT), sections 3.2 and 3.3.
    """

    task = "sentence"
    pools = True
    fewest = 1

    def __init__(self, backbone: Any, labels: int | Sequence[str], **settings: Any) -> None:
        """`labels` by name, or how many; `settings` are the fields `problem`, `pooling`, `words` of `HeadConfig`."""
        named = [f"LABEL_{number}" for number in range(labels)] if isinstance(labels, int) else labels
        settings.setdefault("problem", problem_of(named))
        super().__init__(backbone, named, **settings)

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        segments: Int[Tensor, "batch seq"] | None = None,
        valid: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch labels"]:
        """Logits of each row's labels; `valid` is False at padding, on the right."""
        states = self.states(tokens, segments, valid)
        if self.config.encoder or self.config.pooling == "first":
            return self.scored(states[:, 0])
        last = states.shape[1] - 1 if valid is None else valid.sum(1) - 1
        return self.scored(states[torch.arange(len(states), device=states.device), last])

    def scores(
        self,
        tokens: Int[Tensor, "batch seq"],
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch seq labels"]:
        """Scores at every place, in float32; who calls picks the ones that count."""
        states = self.backbone.hidden(tokens, positions, cache)
        return self.scored(states.flatten(0, 1)).float().unflatten(0, states.shape[:2])

    def scored(self, states: Float[Tensor, "texts dim"]) -> Float[Tensor, "texts labels"]:
        """What the head makes of the states of chosen places: an encoder's go through its pooler first."""
        if self.config.encoder:
            states = self.backbone.pooled(states[:, None])
        return self.score(states)
