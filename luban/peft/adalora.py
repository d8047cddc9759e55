"""AdaLoRA: LoRA whose ranks move, during training, to the layers that need them.

y = W x + (alpha / init_r) P L Q x        P, Q nearly orthogonal, L diagonal and zero at first

Every column of P with its number of L and its row of Q is a triplet. Training begins with `init_r` triplets a layer;
the loss's feeling for each is followed, and the least felt of all layers lose their number of L until `target_r` a
layer are left on average.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from jaxtyping import Bool, Float
from torch import Tensor, nn

from luban.errors import ConfigError
from luban.nn.linear import linear
from luban.peft.adapter import Adapter, Mergeable, attach_all
from luban.peft.targets import expanded

TOLD_OTHERWISE = ("r", "rank_pattern", "total_step")
"""Entries of `peft`'s that the tensors or the run tell."""


@dataclass(frozen=True, kw_only=True)
class AdaLoraConfig:
    """Low-rank adaptation under a budget of ranks."""

    init_r: Annotated[int, Ge(1)] = 12
    """Triplets of each layer at the start."""
    target_r: Annotated[int, Ge(1)] = 8
    """Triplets of a layer at the end, on average."""
    lora_alpha: Annotated[float, Gt(0)] = 16.0
    """The change is scaled by this over `init_r`."""
    lora_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the inputs to Q that training leaves out."""
    target_modules: tuple[str, ...] = ("q", "k", "v", "o")
    """Layers by the ends of their names: q, attention.o, mlp.*, ...; `all-linear` is every one but the head."""
    tinit: Annotated[int, Ge(0)] = 0
    """Steps with all triplets before the budget begins to fall."""
    tfinal: Annotated[int, Ge(0)] = 0
    """Steps at the end in which the ranks stay as they are."""
    deltaT: Annotated[int, Ge(1)] = 1  # noqa: N815 - the name in the files
    """Steps from one allocation to the next."""
    beta1: Annotated[float, Gt(0), Lt(1)] = 0.85
    """How slowly the sensitivity is smoothed."""
    beta2: Annotated[float, Gt(0), Lt(1)] = 0.85
    """How slowly its uncertainty is smoothed."""
    orth_reg_weight: Annotated[float, Ge(0)] = 0.5
    """Weight of the penalty that keeps P and Q orthogonal."""

    def __post_init__(self) -> None:
        if self.target_r > self.init_r:
            what = f"target_r {self.target_r} is more than init_r {self.init_r}: ranks only fall"
            raise ConfigError(what, where="peft.target_r")

    def budget(self, step: int, steps: int, *, start: int, end: int) -> int:
        """How many triplets all layers may have after `step` of `steps`: from `start` to `end`, by a cubic.

        Source: Zhang et al. 2023, eq. 12 (arXiv:2303.10512).
        """
        last = steps - self.tfinal
        if step <= self.tinit:
            return start
        if step >= last:
            return end
        left = 1 - (step - self.tinit) / (last - self.tinit)
        return int((start - end) * left**3 + end)


class Importance:
    """How much the loss would feel each number of a weight become 0, smoothed over steps.

    Source: Zhang et al. 2023, eqs. 8-11 (arXiv:2303.10512); Molchanov et al. 2019 for |w g| (arXiv:1906.10771).
    """

    def __init__(self, weight: Tensor) -> None:
        self.now = torch.zeros_like(weight)
        self.smoothed = torch.zeros_like(weight)
        self.uncertainty = torch.zeros_like(weight)

    def smooth(self, beta1: float, beta2: float) -> None:
        """Take what was measured in this step into account."""
        self.smoothed = beta1 * self.smoothed + (1 - beta1) * self.now
        self.uncertainty = beta2 * self.uncertainty + (1 - beta2) * (self.now - self.smoothed).abs()

    def score(self) -> Tensor:
        """Sensitivity by uncertainty: a number that is felt, or that we know little of, is kept."""
        return self.smoothed * self.uncertainty


class Triplets(Mergeable):
    """One layer's P (`b`), L (`e`) and Q (`a`).

    Source: Zhang et al. 2023, section 3.1 (arXiv:2303.10512); P and Q are drawn with deviation 0.02 as in the
    authors' code.
    """

    kept: Tensor

    def __init__(self, layer: nn.Linear, config: AdaLoraConfig) -> None:
        super().__init__()
        outputs, inputs = layer.weight.shape
        self.scale, self.dropout = config.lora_alpha / (config.init_r + 1e-5), config.lora_dropout
        self.a = nn.Parameter(0.02 * torch.randn(config.init_r, inputs))
        self.e = nn.Parameter(torch.zeros(config.init_r, 1))
        self.b = nn.Parameter(0.02 * torch.randn(outputs, config.init_r))
        self.register_buffer("kept", torch.ones(config.init_r, dtype=torch.bool), persistent=False)
        self.felt: dict[str, Importance] = {}

    def after(self, layer: Any, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - see `Part.after`
        """See `Part.after`; a layer from which the budget took every triplet changes nothing."""
        if not len(self.e):
            return y
        inputs = F.dropout(x.to(self.a.dtype), self.dropout, self.training)
        return y + (linear(linear(inputs, self.a * self.e), self.b) * (self.scale * self.share)).to(y.dtype)

    def delta(self, layer: Any) -> Float[Tensor, "outputs inputs"]:  # noqa: ARG002 - see `Mergeable.delta`
        """See `Mergeable.delta`."""
        return self.scale * (self.b @ (self.a * self.e))

    def tensors(self) -> dict[str, Tensor]:
        """See `Stored.tensors`; a file has only the triplets that are kept."""
        if all(self.choice()):
            return {"lora_A": self.a, "lora_B": self.b, "lora_E": self.e}
        return {"lora_A": self.a[self.kept], "lora_B": self.b[:, self.kept], "lora_E": self.e[self.kept]}

    def choice(self) -> list[bool]:
        """Whether each triplet is kept; each one is where a plan has the model without memory."""
        return [True] * len(self.kept) if self.kept.is_meta else self.kept.tolist()

    def resize(self, rank: int) -> None:
        """Have `rank` triplets, all zero, for a file to fill."""
        self.a = nn.Parameter(self.a.new_zeros(rank, self.a.shape[1]))
        self.e = nn.Parameter(self.e.new_zeros(rank, 1))
        self.b = nn.Parameter(self.b.new_zeros(self.b.shape[0], rank))
        self.kept = self.kept.new_ones(rank)

    @torch.no_grad()
    def measure(self) -> None:
        """Note |w g| of every number, from the gradients as they are now."""
        for name, weight in self.weights().items():
            felt = self.felt.setdefault(name, Importance(weight))
            felt.now = torch.zeros_like(weight) if weight.grad is None else (weight * weight.grad).abs()

    def scores(self) -> Float[Tensor, " rank"]:
        """What each triplet matters: its number of L and the means over its column of P and its row of Q.

        Source: Zhang et al. 2023, eq. 7 (arXiv:2303.10512).
        """
        value, row, column = (self.felt[name].score() for name in ("e", "a", "b"))
        return value.squeeze(1) + row.mean(1) + column.mean(0)

    @torch.no_grad()
    def mask(self, kept: Bool[Tensor, " rank"]) -> None:
        """Let triplets that are not `kept` compute nothing."""
        self.kept = kept
        self.e.masked_fill_(~kept[:, None], 0.0)

    def strayed(self) -> Float[Tensor, " 2"]:
        """How far P and Q are from orthogonal: |P'P - I| and |QQ' - I| (Frobenius)."""
        one = torch.eye(len(self.e), dtype=self.a.dtype, device=self.a.device)
        return torch.stack([(self.b.t() @ self.b - one).norm(), (self.a @ self.a.t() - one).norm()])

    def weights(self) -> dict[str, nn.Parameter]:
        """By the names that `felt` has."""
        return {"a": self.a, "e": self.e, "b": self.b}


class AdaLora(Adapter):
    """The layers' triplets and the budget they share."""

    config: AdaLoraConfig
    steps = 0
    """Steps of the run, once it has begun."""

    def triplets(self) -> dict[str, Triplets]:
        """Each layer's, by its name."""
        return {place: part for place, (_, part) in self.parts().items() if isinstance(part, Triplets)}

    def ranks(self) -> dict[str, int]:
        """How many triplets each layer has now."""
        return {place: int(part.kept.sum()) for place, part in self.triplets().items()}

    def loss(self) -> Tensor | None:
        """The penalty on P and Q: the mean norm, as in the authors' code (the paper's eq. 4 has squares)."""
        if not self.config.orth_reg_weight:
            return None
        strayed = torch.cat([part.strayed() for part in self.triplets().values()])
        return self.config.orth_reg_weight * strayed.mean()

    def after_backward(self) -> None:
        """Measure what the loss feels, at the weights the gradients belong to (algorithm 1; `peft`: one step on)."""
        for part in self.triplets().values():
            part.measure()

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002 - the weights are enough
        """Smooth, and every `deltaT` steps give the budget's triplets to where they matter most.

        Raises ConfigError where `tinit` and `tfinal` leave the budget no step to fall.
        """
        config, parts, last = self.config, self.triplets().values(), steps - self.config.tfinal
        if config.tinit >= last:
            what = f"tinit {config.tinit} and tfinal {config.tfinal} leave no step of {steps} for the budget to fall"
            raise ConfigError(what, where="peft.tinit")
        self.steps = steps
        for part in parts if step < last else ():
            for felt in part.felt.values():
                felt.smooth(config.beta1, config.beta2)
        if step == last or (config.tinit < step < last and step % config.deltaT == 0):
            total = sum(len(part.e) for part in parts)
            end = min(total, config.target_r * len(parts))
            self._allocate(config.budget(step, steps, start=total, end=end))
        for part in parts if step > last else ():
            part.mask(part.kept)  # the step has moved them off zero
        for part in parts if step == last else ():
            part.felt.clear()

    def _allocate(self, budget: int) -> None:
        """Let the `budget` triplets that matter most live; among equals the earlier ones."""
        parts = self.triplets().values()
        scores = torch.cat([part.scores() for part in parts])
        kept = torch.zeros_like(scores, dtype=torch.bool)
        kept[scores.argsort(descending=True, stable=True)[:budget]] = True
        for part, own in zip(parts, kept.split([len(part.e) for part in parts]), strict=True):
            part.mask(own)

    def state(self) -> dict[str, Any]:
        """See `Adapter.state`: what is kept, and what was felt so far."""
        return {
            place: {
                "kept": part.kept.tolist(),
                **{
                    name: [_written(felt.smoothed), _written(felt.uncertainty)]
                    for name, felt in part.felt.items()
                },
            }
            for place, part in self.triplets().items()
        }

    def restore(self, state: dict[str, Any]) -> None:
        """See `Adapter.restore`."""
        for place, part in self.triplets().items():
            part.kept = torch.tensor(state[place]["kept"], dtype=torch.bool, device=part.e.device)
            part.felt = {
                name: Importance(weight) for name, weight in part.weights().items() if name in state[place]
            }
            for name, felt in part.felt.items():
                felt.smoothed, felt.uncertainty = (_read(text, felt.now) for text in state[place][name])

    def fit(self, held: Mapping[str, Mapping[str, Tensor]]) -> None:
        """See `Adapter.fit`."""
        for place, part in self.triplets().items():
            if "lora_E" in held.get(place, {}):
                part.resize(len(held[place]["lora_E"]))

    def entries(self, names: Mapping[str, str]) -> dict[str, Any]:
        """See `Adapter.entries`; which of `init_r` triplets are kept is `rank_pattern`."""
        patterns = {
            f"{names[place]}.lora_E": part.choice() + [False] * (self.config.init_r - len(part.e))
            for place, part in self.triplets().items()
        }
        some = any(not all(pattern) for pattern in patterns.values())
        steps = self.steps or self.config.tinit + self.config.tfinal + 1
        return {**super().entries(names), "total_step": steps, "rank_pattern": patterns if some else None}


def _written(tensor: Tensor) -> str:
    return base64.b64encode(tensor.float().cpu().numpy().tobytes()).decode("ascii")


def _read(text: str, like: Tensor) -> Tensor:
    numbers = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float32)
    return numbers.view_as(like).to(like)


def apply(model: Any, config: AdaLoraConfig, *, name: str = "default") -> Adapter:
    """AdaLoRA on the layers of `config.target_modules`; raises ConfigError where a name means none."""
    attach_all(
        model,
        expanded(model, config.target_modules),
        (nn.Linear,),
        name,
        lambda layer: Triplets(layer, config),
    )
    return AdaLora(model, "adalora", config, name=name)
