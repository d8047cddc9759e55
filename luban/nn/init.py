"""First values of a fresh model's weights."""

from __future__ import annotations

import math

import torch
from torch import nn

RESIDUAL = (".attention.o", ".down")
"""What writes into the residual stream, by the end of its name in every family (an expert's is `.down` too)."""


def initialise(model: nn.Module, *, layers: int, std: float = 0.02) -> None:
    """Draw all linear and embedding weights from a normal; zero the biases; leave norms at 1 and 0.

    Projections into the residual stream are narrower by `sqrt(2 * layers)`, so that the sum of all blocks
    starts at the same size however many there are. Weights without memory (on `meta`) are left as they are.

    Source: Radford et al. 2019 (GPT-2), section 2.3.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Embedding) or module.weight.is_meta:
            continue
        if isinstance(module, nn.Linear):
            narrower = math.sqrt(2 * layers) if name.endswith(RESIDUAL) else 1.0
            nn.init.normal_(module.weight, std=std / narrower)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        else:
            nn.init.normal_(module.weight, std=std)


def unset_embedding(count: int, dim: int) -> nn.Embedding:
    """An embedding whose weights are yet to be set, by `initialise` or from a file.

    `nn.Embedding` draws its own at once, which on `meta` imports all of torch's compiler: over a second.
    """
    return nn.Embedding.from_pretrained(torch.empty(count, dim), freeze=False)
