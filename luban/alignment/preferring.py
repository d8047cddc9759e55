"""What `luban dpo` asks of a policy at each step, and what it tells of the answers held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from luban.alignment.pair_batch import Answers, answers_of, target_logps
from luban.alignment.preference_losses import LOSSES, Compared, Strength, imitation_loss, rewards
from luban.alignment.preferences import Pairs
from luban.alignment.reference import Reference
from luban.data.batch import Batch
from luban.data.loader import Loader
from luban.training.loop import Validate
from luban.training.parallel.world import World
from luban.training.step import Objective, Step
from luban.training.validate import always_the_same


@dataclass(frozen=True, kw_only=True)
class Known:
    """Pairs, and what the reference thinks of their answers."""

    pairs: Pairs
    reference: Reference


class Preferring:
    """The objective: the loss of each pair of a batch, summed.

    `known` has the pairs by the name of the loader's source; `imitation` weighs `imitation_loss`. Without gradients
    what the pairs show is added up in `seen`, from one `forget` to the next.
    """

    def __init__(
        self,
        known: Mapping[str, Known],
        *,
        loss: str,
        strength: Strength,
        imitation: float = 0.0,
        hidden: Callable[..., Tensor] | None = None,
    ) -> None:
        self.known, self.loss, self.strength, self.hidden = known, loss, strength, hidden
        self.imitation = imitation
        self.forget()

    def forget(self) -> None:
        """Begin to add up anew."""
        self.seen: dict[str, float] = {}

    def __call__(self, model: Any, batch: Batch) -> Step:
        """See `training.step.Objective`; a target is a pair."""
        known = self.known[batch.ids[0].source] if batch.ids else next(iter(self.known.values()))
        answers = answers_of(batch, known.pairs)
        compared = self._compare(model, answers, known)
        losses = LOSSES[self.loss](compared, self.strength)
        if not torch.is_grad_enabled():
            self._add(compared, float(losses.sum()))
        if self.imitation:
            losses = losses + self.imitation * imitation_loss(compared)
        return Step(losses.sum(), len(losses))

    def _compare(self, model: Any, answers: Answers, known: Known) -> Compared:
        logps = answers.totals(target_logps(model, answers.batch, self.hidden))
        return Compared(
            logps=logps,
            reference=known.reference(model, answers),
            tokens=answers.counts,
            good=torch.from_numpy(known.pairs.good)[answers.pairs].to(logps.device),
        )

    def _add(self, compared: Compared, loss: float) -> None:
        implied = rewards(compared, self.strength, loss=self.loss)
        sums = _judged(implied, compared.good) if self.loss == "kto" else _preferred(implied)
        per_token = (compared.logps / compared.tokens)[compared.good, 0]
        sums |= {"loss": loss, "logp": float(per_token.sum())}
        for name, value in sums.items():
            self.seen[name] = self.seen.get(name, 0.0) + value


def _preferred(implied: Float[Tensor, "pairs 2"]) -> dict[str, float]:
    """Sums over pairs: how many, how many in the right order, the rewards of good answers and of bad ones."""
    good, bad = implied.unbind(1)
    count = len(implied)
    right = float((good > bad).sum() + 0.5 * (good == bad).sum())  # a draw, as before step 1, is half right
    return {"pairs": count, "right": right, "goods": count, "bads": count} | _sums(good, bad)


def _judged(implied: Float[Tensor, "pairs 2"], good: Bool[Tensor, " pairs"]) -> dict[str, float]:
    """The same of single answers, which are right if a good one gained and a bad one lost."""
    first = implied[:, 0]
    right = float(((first > 0) == good).sum())
    goods = int(good.sum())
    counts = {"pairs": len(first), "right": right, "goods": goods, "bads": len(first) - goods}
    return counts | _sums(first[good], first[~good])


def _sums(good: Tensor, bad: Tensor) -> dict[str, float]:
    return {"good": float(good.sum()), "bad": float(bad.sum())}


def held_out_pairs(
    model: Any, loader: Loader, asked: Objective, preferring: Preferring, *, batches: int, world: World
) -> Validate:
    """A function that gives the figures of the first `batches` of `loader`, always the same ones.

    `val/loss` per pair; `val/accuracy`, the share of pairs in the right order; the mean rewards that the policy
    implies, and their difference; `val/logp`, nats per token of the good answers: DPO may let it fall. `asked` is
    `preferring` as the layout of the model wants it asked.
    """
    ask = always_the_same(model, loader, asked, batches=batches, world=world)

    def validate() -> dict[str, float]:
        preferring.forget()
        ask()
        names = sorted(preferring.seen)
        seen = dict(zip(names, world.total(*(preferring.seen[name] for name in names)), strict=True))
        good, bad = seen["good"] / max(1, seen["goods"]), seen["bad"] / max(1, seen["bads"])
        return {
            "val/loss": seen["loss"] / seen["pairs"],
            "val/accuracy": seen["right"] / seen["pairs"],
            "val/reward_good": good,
            "val/reward_bad": bad,
            "val/reward_margin": good - bad,
            "val/logp": seen["logp"] / max(1, seen["goods"]),
        }

    return validate
