"""What `luban reward` asks of a model at each step, and what it tells of the answers held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from luban.alignment.pair_batch import Answers, answers_of, logps_of
from luban.alignment.preferences import Pairs
from luban.alignment.reward_losses import centring, pair_loss, step_loss
from luban.data.batch import IGNORED, Batch
from luban.data.loader import Loader
from luban.training.loop import Validate
from luban.training.parallel.world import World
from luban.training.step import Objective, Step
from luban.training.validate import always_the_same


class Rewarding:
    """An objective on the rewards of a batch. Without gradients what it meets is added up in `seen`."""

    hidden: Callable[..., Tensor] | None = None
    """Replaces `model.hidden`, compiled for example."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def __call__(self, model: Any, batch: Batch) -> Step:
        """See `training.step.Objective`; a target is a pair, or a step."""
        raise NotImplementedError

    def states(self, model: Any, batch: Batch) -> Float[Tensor, "tokens dim"]:
        """The states of all places; documents do not see each other."""
        cache = model.isolate(batch.documents) if batch.packed else None
        return (self.hidden or model.hidden)(batch.tokens, batch.positions, cache).flatten(0, 1)

    def add(self, **sums: float | Tensor) -> None:
        """Add to what was seen, outside of training."""
        if not torch.is_grad_enabled():
            for name, value in sums.items():
                self.seen[name] = self.seen.get(name, 0.0) + float(value)


class RewardingPairs(Rewarding):
    """The better of two answers is to have the higher reward.

    `pairs` by the name of the loader's source; `margin` multiplies the rows' margins, `centre` and `imitation` weigh
    what is minimised beside the pairs' loss.
    """

    def __init__(
        self, pairs: Mapping[str, Pairs], *, margin: float = 1.0, centre: float = 0.0, imitation: float = 0.0
    ) -> None:
        super().__init__()
        self.pairs, self.margin, self.centre, self.imitation = pairs, margin, centre, imitation

    def __call__(self, model: Any, batch: Batch) -> Step:
        """See `Rewarding.__call__`."""
        if not batch.ids:  # a batch of padding: every weight still gets a gradient, of zeros
            return Step(_nothing(model, self.states(model, batch)), 0)
        pairs = self.pairs[batch.ids[0].source]
        answers = answers_of(batch, pairs)
        states = self.states(model, answers.batch)
        rewards = model.scored(states[answers.lasts]).float().view(-1, 2)
        margins = torch.from_numpy(pairs.margins)[answers.pairs].to(rewards.device) * self.margin
        losses = pair_loss(rewards, margins)
        good, bad = rewards.detach().unbind(1)
        self.add(loss=losses.sum(), right=(good > bad).sum(), good=good.sum(), bad=bad.sum(), count=len(good))
        if self.centre:
            losses = losses + self.centre * centring(rewards)
        if self.imitation:
            words = said_by_words(model, states, answers)
            self.add(words=words.sum())
            losses = losses - self.imitation * words
        return Step(losses.sum(), len(losses))


def said_by_words(
    model: Any, states: Float[Tensor, "tokens dim"], answers: Answers
) -> Float[Tensor, " pairs"]:
    """The mean log-probability of each chosen answer's tokens, by the backbone's own head for words."""
    chosen = answers.owners % 2 == 0
    targets = answers.batch.targets.flatten().clone()
    places = (targets != IGNORED).nonzero().squeeze(1)
    targets[places[~chosen]] = IGNORED
    logps = logps_of(states, model.backbone.head.weight, targets)
    sums = torch.zeros(len(answers.pairs), device=logps.device).index_add(
        0, answers.owners[chosen] // 2, logps
    )
    return sums / answers.counts[:, 0]


class RewardingSteps(Rewarding):
    """A right step is to have a positive reward at its last token, a wrong one a negative."""

    def __call__(self, model: Any, batch: Batch) -> Step:
        """See `Rewarding.__call__`."""
        targets = batch.targets.flatten()
        places = (targets != IGNORED).nonzero().squeeze(1)
        states = self.states(model, batch)
        if not len(places):
            return Step(_nothing(model, states), 0)
        rewards = model.scored(states[places]).float()[:, 0]
        right = targets[places].float()
        losses, told = step_loss(rewards, right), rewards.detach()
        self.add(loss=losses.sum(), count=len(losses), right=((told > 0) == right.bool()).sum(),
                 good=(told * right).sum(), goods=right.sum(), bad=(told * (1 - right)).sum())  # fmt: skip
        return Step(losses.sum(), len(losses))


def held_out_rewards(
    model: Any, loader: Loader, asked: Objective, rewarding: Rewarding, *, batches: int, world: World
) -> Validate:
    """A function that gives the figures of the first `batches` of `loader`, always the same ones.

    `val/loss` and `val/accuracy` per pair (or step), the mean rewards of good and of bad ones and their difference;
    with imitation `val/logp`, nats per token of the good answers. `asked` is `rewarding` as the layout of the model
    wants it asked.
    """
    ask = always_the_same(model, loader, asked, batches=batches, world=world)

    def validate() -> dict[str, float]:
        rewarding.seen = {}
        ask()
        names = sorted(rewarding.seen)
        return _figures(dict(zip(names, world.total(*(rewarding.seen[name] for name in names)), strict=True)))

    return validate


def _figures(seen: Mapping[str, float]) -> dict[str, float]:
    count = seen["count"]
    goods = seen.get("goods", count)
    bads = count - goods if "goods" in seen else count
    good, bad = seen["good"] / max(1, goods), seen["bad"] / max(1, bads)
    words = {"val/logp": seen["words"] / count} if "words" in seen else {}
    return {
        "val/loss": seen["loss"] / count,
        "val/accuracy": seen["right"] / count,
        "val/reward_good": good,
        "val/reward_bad": bad,
        "val/reward_margin": good - bad,
        **words,
    }


def _nothing(model: Any, states: Tensor) -> Tensor:
    """A loss of 0 that every weight takes part in."""
    heads = [model.score, *([model.backbone.head] if model.backbone.head is not None else [])]
    return (states.sum() + sum(head.weight.sum() for head in heads)) * 0.0
