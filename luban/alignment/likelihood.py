"""How likely actions are under a policy, how undecided it was, and what a critic expects: one pass over the rows.

The head is only asked where an action was chosen, never at the prompt, and a part of the actions at a time: of
[actions, vocab] logits only one part exists at once, in the backward pass too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from luban.alignment.experience import Experience
from luban.nn.linear import linear

ACTIONS_AT_ONCE = 512


class Likelihood(NamedTuple):
    """Of each action; zeros where there is none."""

    logps: Float[Tensor, "batch actions"]
    entropies: Float[Tensor, "batch actions"]
    """In nats, of the distribution that the action was drawn from."""


def likelihood(policy: Any, batch: Experience, *, temperature: float = 1.0) -> Likelihood:
    """The actions' log-probabilities under `policy` at `temperature`, and its entropy where it chose them."""
    return likelihood_from(chosen_states(policy, batch), policy, batch, temperature=temperature)


def likelihood_from(
    states: Float[Tensor, "chosen dim"],
    policy: Any,
    batch: Experience,
    *,
    temperature: float = 1.0,
    entropic: bool = False,
) -> Likelihood:
    """The same where `policy`'s states are at hand; entropies lead back to them where that is `entropic`."""
    actions = batch.actions[batch.there]
    parts = [
        _part(some, policy.head.weight, taken, temperature, entropic)
        for some, taken in zip(states.split(ACTIONS_AT_ONCE), actions.split(ACTIONS_AT_ONCE), strict=True)
    ]
    logps, entropies = (torch.cat(kind) for kind in zip(*parts, strict=True))
    return Likelihood(put_back(logps, batch.there), put_back(entropies, batch.there))


def expected(critic: Any, batch: Experience) -> Float[Tensor, "batch actions"]:
    """What `critic` expects before each action; zeros where there is none."""
    return expected_from(chosen_states(critic.backbone, batch), critic, batch)


def expected_from(
    states: Float[Tensor, "chosen dim"], critic: Any, batch: Experience
) -> Float[Tensor, "batch actions"]:
    """The same where the states of `critic`'s backbone are at hand."""
    return put_back(critic.scored(states)[:, 0].float(), batch.there)


def chosen_states(model: Any, batch: Experience) -> Float[Tensor, "chosen dim"]:
    """`model`'s states that chose the actions, row after row."""
    rows, _ = batch.there.nonzero(as_tuple=True)
    return model.hidden(batch.tokens)[rows, batch.places[batch.there]]


def put_back(values: Float[Tensor, " chosen"], there: Bool[Tensor, "batch actions"]) -> Tensor:
    """One value for each action that is there, at its place; zeros elsewhere."""
    return values.new_zeros(there.shape).masked_scatter(there, values)


def _part(
    states: Float[Tensor, "some dim"],
    weight: Tensor,
    actions: Int[Tensor, " some"],
    temperature: float,
    entropic: bool,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of some actions; in training the logits are computed again for backward."""
    if torch.is_grad_enabled() and len(states) == ACTIONS_AT_ONCE:
        return checkpoint(_asked, states, weight, actions, temperature, entropic, use_reentrant=False)
    return _asked(states, weight, actions, temperature, entropic)


def _asked(
    states: Tensor, weight: Tensor, actions: Tensor, temperature: float, entropic: bool
) -> tuple[Tensor, Tensor]:
    logits = linear(states, weight).float()
    logps = (logits if temperature == 1 else logits / temperature).log_softmax(-1)
    taken = logps.gather(1, actions[:, None])[:, 0]
    if entropic:
        return taken, -(logps.exp() * logps).sum(-1)
    known = logps.detach()
    return taken, known.exp().mul_(known).sum(-1).neg_()
