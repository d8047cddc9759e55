"""One vector for a text, out of the states of a causal model's last layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from luban.errors import PromptError

Pooling = Literal["mean", "last"]
"""How the states of a text become one: their mean, or the last one."""
BATCH_TOKENS = 4096
"""How many positions, padding included, go through the model at once."""


@torch.inference_mode()
def embed_tokens(model: Any, texts: Sequence[Sequence[int]], pooling: Pooling) -> list[list[float]]:
    """The pooled states of each text, computed in batches of similar length; in the model's own scale.

    Raises PromptError for a text that is empty or longer than the model's window.
    """
    for number, text in enumerate(texts):
        if not text or len(text) > model.config.context:
            what = f"the text has {len(text)} tokens and the model's window {model.config.context}"
            raise PromptError(what if text else "the text is empty", where=f"text {number}")
    found: dict[int, list[float]] = {}
    for batch in _batches(texts):
        for number, vector in zip(batch, _embed(model, [texts[n] for n in batch], pooling), strict=True):
            found[number] = vector.tolist()
    return [found[number] for number in range(len(texts))]


def _batches(texts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of texts of similar length, the longest first."""
    left = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
    while left:
        rows = max(1, BATCH_TOKENS // len(texts[left[0]]))
        yield left[:rows]
        left = left[rows:]


def _embed(model: Any, texts: Sequence[Sequence[int]], pooling: Pooling) -> Float[Tensor, "texts dim"]:
    """Texts padded on the right, which a causal model does not see."""
    device = model.embedding.weight.device
    lengths = torch.tensor([len(text) for text in texts], device=device)
    longest = max(map(len, texts))
    rows = [[*text, *[0] * (longest - len(text))] for text in texts]
    states = model.hidden(torch.tensor(rows, device=device)).double()
    if pooling == "last":
        return states[torch.arange(len(texts), device=device), lengths - 1].cpu()
    within = torch.arange(longest, device=device) < lengths[:, None]
    return ((states * within[..., None]).sum(1) / lengths[:, None]).cpu()
