"""IncreLoRA: LoRA whose ranks grow, during training, where the loss feels the change most.

y = W x + (alpha / target_r) B L A x        L diagonal; a layer begins with `init_r` ranks

Room for `max_r` ranks stands ready in each layer, so that optimizer and checkpoints see weights of one shape. One rank
more than a layer has learns in advance with a tiny number of L. Finished adapters are plain LoRA, L put into B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float
from torch import Tensor, nn

from luban.errors import ConfigError
from luban.nn.linear import linear
from luban.peft.adapter import attach_all
from luban.peft.lora import Lora, LoraConfig, LowRank
from luban.peft.targets import expanded

EARLY = 1e-5
"""The number of L with which a rank learns in advance, and begins."""


@dataclass(frozen=True, kw_only=True)
class IncreLoraConfig:
    """Low-rank adaptation with ranks that grow."""

    init_r: Annotated[int, Ge(1)] = 1
    """Ranks of each layer at the start."""
    target_r: Annotated[int, Ge(1)] = 8
    """Ranks of a layer at the end, on average."""
    max_r: Annotated[int, Ge(0)] = 0
    """The most ranks of one layer; 0 for twice `target_r`."""
    lora_alpha: Annotated[float, Gt(0)] = 16.0
    """The change is scaled by this over `target_r`."""
    lora_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the inputs to A that training leaves out."""
    target_modules: tuple[str, ...] = ("q", "k", "v", "o")
    """Layers by the ends of their names: q, attention.o, mlp.*, ...; `all-linear` is every linear one but the head."""
    tinit: Annotated[int, Ge(0)] = 0
    """Steps before the ranks begin to grow."""
    tfinal: Annotated[int, Ge(0)] = 0
    """Steps at the end in which the ranks stay as they are; 0 for half of the run."""
    deltaT: Annotated[int, Ge(1)] = 1  # noqa: N815 - AdaLoRA's name for it
    """Steps from one growth to the next."""
    beta1: Annotated[float, Gt(0), Lt(1)] = 0.85
    """How slowly the sensitivity is smoothed."""
    beta2: Annotated[float, Gt(0), Lt(1)] = 0.85
    """How slowly its uncertainty is smoothed."""
    orth_reg_weight: Annotated[float, Ge(0)] = 0.1
    """Weight of the penalty that keeps the columns of B, and the rows of A, orthogonal."""

    def __post_init__(self) -> None:
        if not self.init_r <= self.target_r <= self.most:
            what = f"init_r {self.init_r}, target_r {self.target_r} and max_r {self.most} must not fall"
            raise ConfigError(what, where="peft")

    @property
    def most(self) -> int:
        """The most ranks of one layer."""
        return self.max_r or 2 * self.target_r

    def budget(self, step: int, steps: int, *, layers: int) -> int:
        """The sum of all layers' ranks after `step` of `steps`: even growth between `tinit` and `tfinal`.

        Raises ConfigError where these two leave no step.
        """
        last = steps - (self.tfinal or steps // 2)
        if self.tinit >= last:
            what = (
                f"tinit {self.tinit} and tfinal {self.tfinal} leave no step of {steps} for the ranks to grow"
            )
            raise ConfigError(what, where="peft.tinit")
        grown = min(1.0, max(0.0, (step - self.tinit) / (last - self.tinit)))
        return layers * self.init_r + int(grown * layers * (self.target_r - self.init_r))


class Growing(Lora):
    """One layer's B, L (`e`) and A, of which the first `ranks` ranks compute, and in training the next one a little.

    Source: Zhang et al. 2023, section 3 (arXiv:2308.12043), and the authors' code for deviations. We differ: the scale
    does not change with the rank, and the learning rate is not warmed up again for new ranks.
    """

    def __init__(self, layer: nn.Linear, config: IncreLoraConfig) -> None:
        plain = LoraConfig(r=config.most, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout)
        super().__init__(layer, plain)
        self.scale = config.lora_alpha / config.target_r
        self.e = nn.Parameter(torch.zeros(config.most))
        self.ranks, self.advance = config.init_r, True
        self.sensitivity = self.uncertainty = 0.0

    @property
    def rank(self) -> int:
        """Columns of B that a file has."""
        return self.ranks

    @torch.no_grad()
    def start(self, layer: Any) -> None:  # noqa: ARG002 - see `Lora.start`
        """Draw A and B; L is zero."""
        self.a.normal_(std=0.02)
        self.b.normal_(std=0.02)

    def product(self) -> Float[Tensor, "outputs inputs"]:
        """B L A."""
        return (self.b * self.strength()) @ self.a

    def tensors(self) -> dict[str, Tensor]:
        """A and B L of the ranks there are: new tensors."""
        return {
            "lora_A.weight": self.a[: self.ranks],
            "lora_B.weight": (self.b * self.e)[:, : self.ranks],
        }

    def strength(self) -> Float[Tensor, " most"]:
        """L: of the ranks there are, and in training of the one that learns in advance."""
        place = torch.arange(len(self.e), device=self.e.device)
        early = (place == self.ranks) * (EARLY if self.training and self.advance else 0.0)
        return torch.where(place < self.ranks, self.e, early)

    @torch.no_grad()
    def grow(self) -> None:
        """One rank more."""
        self.e[self.ranks] = EARLY
        self.ranks += 1

    @torch.no_grad()
    def felt(self) -> float:
        """How much the loss feels the change: |w dw| of L, plus its means over A and B, on average over the ranks."""
        weights = (self.e, self.a, self.b)
        value, row, column = (torch.zeros_like(w) if w.grad is None else (w * w.grad).abs() for w in weights)
        return float((value + row.mean(1) + column.mean(0))[: self.ranks].mean())

    def strayed(self) -> Float[Tensor, " 2"]:
        """How far the ranks that learn are from orthogonal: |B'B - I| and |AA' - I| (Frobenius)."""
        b, a = self.b[:, : self.ranks + 1], self.a[: self.ranks + 1]
        one = torch.eye(len(a), dtype=a.dtype, device=a.device)
        return torch.stack([(b.t() @ b - one).norm(), (a @ a.t() - one).norm()])

    def _changed(self, y: Tensor, x: Tensor, scale: float) -> Tensor:
        thin = linear(self._dropped(x), self.a) * self.strength()
        return y + (linear(thin, self.b) * scale).to(y.dtype)


class IncreLora(LowRank):
    """The layers' ranks and the budget that they grow to.

    We differ from the paper in the score: it takes |dW dL/d(dW)| of the whole change, which costs a full gradient per
    layer; here the same is taken of L, A and B.
    """

    config: IncreLoraConfig

    def growing(self) -> dict[str, Growing]:
        """Each layer's part, by its name."""
        return {place: part for place, part in self.lora().items() if isinstance(part, Growing)}

    def ranks(self) -> dict[str, int]:
        """How many ranks each layer has now."""
        return {place: part.ranks for place, part in self.growing().items()}

    def loss(self) -> Tensor | None:
        """The penalty on A and B."""
        if not self.config.orth_reg_weight:
            return None
        strayed = torch.cat([part.strayed() for part in self.growing().values()])
        return self.config.orth_reg_weight * strayed.mean()

    def after_backward(self) -> None:
        """Follow what the loss feels in each layer."""
        config = self.config
        for part in self.growing().values():
            felt = part.felt()
            part.sensitivity = config.beta1 * part.sensitivity + (1 - config.beta1) * felt
            strange = abs(felt - part.sensitivity)
            part.uncertainty = config.beta2 * part.uncertainty + (1 - config.beta2) * strange

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002 - see `Adapter`
        """Every `deltaT` steps give the layers that are felt most the ranks that the budget has more."""
        parts, config = self.growing().values(), self.config
        end = config.target_r * len(parts)
        due = config.budget(step, steps, layers=len(parts))
        if step % config.deltaT == 0 or due == end:
            self._grow(due - sum(part.ranks for part in parts))
        if due == end:
            for part in parts:
                part.advance = False

    def _grow(self, more: int) -> None:
        """One rank each to the layers of the highest scores that have room, round by round."""
        by_score = sorted(
            self.growing().values(), key=lambda part: part.sensitivity * part.uncertainty, reverse=True
        )
        while more > 0:
            chosen = [part for part in by_score if part.ranks < self.config.most][:more]
            for part in chosen:
                part.grow()
            more -= len(chosen)

    def state(self) -> dict[str, Any]:
        """See `Adapter.state`."""
        kept = ("ranks", "advance", "sensitivity", "uncertainty")
        return {place: {name: getattr(part, name) for name in kept} for place, part in self.growing().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Adapter.restore`."""
        for place, part in self.growing().items():
            for name, value in state[place].items():
                setattr(part, name, value)

    def entries(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Those of the plain LoRA that it has become."""
        config = self.config
        self_as_lora = LoraConfig(
            r=config.target_r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout
        )
        return asdict(self_as_lora) | self.patterns(names, self_as_lora)


def apply(model: Any, config: IncreLoraConfig, *, name: str = "default") -> IncreLora:
    """IncreLoRA on linear layers; raises ConfigError where a name means none."""
    patterns = expanded(model, config.target_modules)
    attach_all(model, patterns, (nn.Linear,), name, lambda layer: Growing(layer, config))
    return IncreLora(model, "increlora", config, name=name)
