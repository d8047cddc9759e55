"""Free running: a model that reads what it wrote itself, as it will in use, while it is scored on the true text.

Teacher forcing, the `next_token` objective, shows the true text up to every token: all places are learned at once,
but the model never meets its own mistakes (exposure bias). Between the two lies scheduled sampling.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from luban.data.batch import Batch
from luban.errors import ConfigError
from luban.training.step import Objective, Step, next_token


def free_running(share: float, taught: Objective | None = None) -> Objective:
    """`taught`, but each token that is read after a text's first is, with chance `share`, the model's own.

    0 is teacher forcing, 1 free running. `taught` is an objective of causal models; None means `next_token`. The
    draws come from torch's global generator; no gradient goes through them.

    Source: Bengio et al. 2015, scheduled sampling (arXiv:1506.03099).
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"a share of {share} is not between 0 and 1", where="free running")
    score = taught or next_token()

    def objective(model: Any, batch: Batch) -> Step:
        return score(model, dataclasses.replace(batch, tokens=own_tokens(model, batch, share)))

    return objective


def own_tokens(model: Any, batch: Batch, share: float) -> Int[Tensor, "batch seq"]:
    """The batch's tokens, each after a text's first replaced with chance `share` by a draw given those before it.

    Texts packed into a row are read side by side, each from its own beginning.
    """
    if share == 0:
        return batch.tokens
    places = batch.positions.flatten()
    text = (places == 0).cumsum(0) - 1  # the number of the text that a token belongs to
    table = batch.tokens.new_zeros(int(text[-1]) + 1, int(places.max()) + 1)
    table[text, places] = batch.tokens.flatten()
    return _read_on(model, table, share)[text, places].view_as(batch.tokens)


@torch.no_grad()
def _read_on(model: Any, tokens: Int[Tensor, "texts seq"], share: float) -> Int[Tensor, "texts seq"]:
    """`tokens` as the model reads them, one after another, some of them its own."""
    texts, seq = tokens.shape
    cache = model.make_cache(batch=texts, capacity=seq)
    read = [tokens[:, :1]]
    for place in range(seq - 1):
        states = model.hidden(read[-1], torch.full_like(read[-1], place), cache)
        for slot in cache:
            slot.advance(1)
        drawn = torch.multinomial(model.head(states[:, -1]).float().softmax(-1), 1)
        own = torch.rand(texts, 1, device=tokens.device) < share
        read.append(torch.where(own, drawn, tokens[:, place + 1 : place + 2]))
    return torch.cat(read, 1)
