"""A mixture of experts in the MLP's place: a router sends each token to a few of many small MLPs.

Parameters grow with the number of experts, arithmetic with how many a token is sent to. Training has to keep the
router from sending everything to a few favourites: `router_logits` observes it, `balance_loss` says how uneven it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.nn.linear import Linear
from luban.nn.mlp import GatedMLP


class MoE(nn.Module):
    """The weighted sum of what each token's `chosen` best experts make of it.

    The weights are the router's probabilities, `normalised` to sum to 1 over the chosen ones (Mixtral) or left as
    they are.

    Source: Shazeer et al. 2017, section 2 (arXiv:1701.06538); Jiang et al. 2024, section 2.1 (arXiv:2401.04088).
    """

    def __init__(self, dim: int, hidden: int, *, experts: int, chosen: int, normalised: bool = True) -> None:
        super().__init__()
        self.chosen, self.normalised = chosen, normalised
        self.router = Linear(dim, experts, bias=False)
        self.experts = nn.ModuleList(GatedMLP(dim, hidden) for _ in range(experts))

    @property
    def idle_parameters(self) -> int:
        """Weights of the experts that a token does not go to."""
        return (len(self.experts) - self.chosen) * sum(w.numel() for w in self.experts[0].parameters())

    def forward(self, x: Float[Tensor, "*batch seq dim"]) -> Float[Tensor, "*batch seq dim"]:
        tokens = x.flatten(0, -2)
        weights, experts = self.route(self.router(tokens))
        order = experts.flatten().argsort(stable=True)  # [tokens * chosen], grouped by expert
        sources = order // self.chosen
        counts: list[int] = experts.flatten().bincount(minlength=len(self.experts)).tolist()
        groups = tokens.index_select(0, sources).split(counts)
        # An expert that no token goes to is not run: decoding one token must not cost them all.
        made = [expert(group) for expert, group in zip(self.experts, groups, strict=True) if len(group)]
        weighted = torch.cat(made) * weights.flatten()[order, None].to(x.dtype)
        return torch.zeros_like(tokens).index_add(0, sources, weighted).view_as(x)

    def route(
        self, logits: Float[Tensor, "tokens experts"]
    ) -> tuple[Float[Tensor, "tokens chosen"], Int[Tensor, "tokens chosen"]]:
        """Each token's experts, best first, with their weights in float32."""
        weights, experts = logits.float().softmax(-1).topk(self.chosen)
        return (weights / weights.sum(-1, keepdim=True) if self.normalised else weights), experts


@contextlib.contextmanager
def router_logits(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that fills with the router logits [tokens, experts] of every MoE layer run inside the block."""
    seen: list[Tensor] = []
    layers = [module for module in model.modules() if isinstance(module, MoE)]
    hooks = [layer.router.register_forward_hook(lambda *call: seen.append(call[-1])) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def balance_loss(logits: Sequence[Float[Tensor, "tokens experts"]], *, chosen: int) -> Float[Tensor, ""]:
    """How unevenly tokens go to experts, over all layers together: `chosen` if evenly, up to `experts` if not.

    The share of tokens an expert gets has no gradient; its mean probability, by which that is multiplied, has.

    Source: Fedus et al. 2021, eq. 4-6 (arXiv:2101.03961), for several chosen experts as transformers has it.
    """
    probabilities = torch.cat([layer.float().softmax(-1) for layer in logits])
    experts = probabilities.shape[1]
    share = F.one_hot(probabilities.topk(chosen).indices, experts).sum((0, 1)) / len(probabilities)
    return experts * (share * probabilities.mean(0)).sum()
