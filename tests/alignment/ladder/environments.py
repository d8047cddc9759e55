"""Two classic environments, many copies at once: what a policy must find out here can be said by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ARMS = torch.tensor([0.1, 0.2, 0.9, 0.3])
"""What a bandit's arms pay on average; plus noise of 0.5."""
SIDE, LENGTH = 4, 12
"""A gridworld of 4 x 4: from one corner to the opposite one in at most 12 steps, each of which costs."""
STEP_COST = -0.1
BEST = 6 * STEP_COST + 1
"""Return of a shortest way: six steps, then the goal."""


def pull(logits: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """`batch` arms drawn from a softmax over `logits`, and what each of them paid."""
    actions = torch.multinomial(logits.softmax(0), batch, replacement=True)
    return actions, ARMS[actions] + 0.5 * torch.randn(batch)


def walk(logits: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, actions, rewards and whether the walk still went on, [batch LENGTH], under `logits` [states 4]."""
    at = torch.zeros(batch, dtype=torch.long)
    going = torch.ones(batch, dtype=torch.bool)
    moves = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])
    steps: list[tuple[Tensor, ...]] = []
    for _ in range(LENGTH):
        action = torch.multinomial(logits[at].softmax(-1), 1)[:, 0]
        place = (torch.stack([at // SIDE, at % SIDE], 1) + moves[action]).clamp(0, SIDE - 1)
        after = place[:, 0] * SIDE + place[:, 1]
        arrived = after == SIDE * SIDE - 1
        reward = torch.where(going, STEP_COST + arrived.float(), 0.0)
        steps.append((at, action, reward, going))
        at, going = torch.where(going, after, at), going & ~arrived
    states, actions, rewards, there = (torch.stack(part, 1) for part in zip(*steps, strict=True))
    return states, actions, rewards, there


PolicyLoss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""From new and old log-probabilities, rewards, values and where the walk goes on to a loss per action."""


def learn_to_walk(loss: PolicyLoss, *, rounds: int, epochs: int, seed: int, lr: float = 0.1) -> float:
    """The mean return of the last walks, of a table of logits that `loss` trained with a table of values."""
    torch.manual_seed(seed)
    logits = torch.zeros(SIDE * SIDE, 4, requires_grad=True)
    critic = torch.zeros(SIDE * SIDE, requires_grad=True)
    optimizer = torch.optim.Adam([logits, critic], lr=lr)
    for _ in range(rounds):
        states, actions, rewards, there = walk(logits.detach(), 32)
        old = taken(logits, states, actions).detach()
        values = torch.where(there, critic[states], 0.0).detach()
        returns = rewards.flip(1).cumsum(1).flip(1)
        for _ in range(epochs):
            each = loss(taken(logits, states, actions), old, rewards, values, there)
            worth = 0.5 * (critic[states] - returns) ** 2
            optimizer.zero_grad()
            torch.where(there, each + worth, 0.0).mean().backward()
            optimizer.step()
    return float(walk(logits.detach(), 256)[2].sum(1).mean())


def taken(logits: Tensor, states: Tensor, actions: Tensor) -> Tensor:
    """The log-probability of each action in its state."""
    return logits[states].log_softmax(-1).gather(-1, actions[..., None])[..., 0]
