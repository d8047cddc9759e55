"""Heads for tasks on an encoder or a decoder: one answer for a text or a pair, for each token, or a span of them.

The first, a text's, is `classifier.py`. `headed.py` says what they share and how their folders are laid out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from luban.models.classifier import Classifier
from luban.models.headed import SPAN_ENDS, Headed, Task


class TokenClassifier(Headed):
    """One label for each token: names, parts of speech.

    Source: Devlin et al. 2019, section 5.3.
    """

    task = "tokens"

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        segments: Int[Tensor, "batch seq"] | None = None,
        valid: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq labels"]:
        """Logits of each token's labels."""
        return self.score(self.states(tokens, segments, valid))


class SpanReader(Headed):
    """Where in the second text the answer to the first begins and ends.

    Source: Devlin et al. 2019, section 4.2.
    """

    task = "spans"

    def __init__(self, backbone: Any, labels: Sequence[str] = SPAN_ENDS, **settings: Any) -> None:
        super().__init__(backbone, labels, **settings)

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        segments: Int[Tensor, "batch seq"] | None = None,
        valid: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq 2"]:
        """For each token, the logits of a span's beginning and of its end there."""
        return self.score(self.states(tokens, segments, valid))


def best_spans(
    logits: Float[Tensor, "batch seq 2"], allowed: Bool[Tensor, "batch seq"], *, longest: int
) -> Int[Tensor, "batch 2"]:
    """For each row, the first and the last token of the likeliest span among `allowed` tokens.

    A span ends no sooner than it begins, and has at most `longest` tokens.
    """
    scores = logits.float().masked_fill(~allowed[..., None], -torch.inf)
    both = scores[:, :, None, 0] + scores[:, None, :, 1]  # [batch, start, end]
    fits = torch.ones_like(both[0], dtype=torch.bool).triu().tril(longest - 1)
    best = both.masked_fill(~fits, -torch.inf).flatten(1).argmax(1)
    return torch.stack([best // logits.shape[1], best % logits.shape[1]], 1)


HEADS: Mapping[Task, type[Headed]] = {
    "sentence": Classifier,
    "tokens": TokenClassifier,
    "spans": SpanReader,
}
