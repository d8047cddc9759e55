"""Who takes part in PPO besides the judge: the policy that acts, the reference it may not leave, the critic.

The reference is the policy without its adapter where it has one, and costs nothing then; else a frozen copy. The
critic begins as the reward model, which knows already what is good, or as the policy with a head that says 0.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luban.alignment.experience import Experience, gathered
from luban.alignment.judge import Modelled
from luban.alignment.likelihood import chosen_states, expected, expected_from, likelihood, likelihood_from
from luban.alignment.rollout import Answer
from luban.errors import ConfigError, TrainingError
from luban.models.classifier import Classifier
from luban.nn.surgery import parts
from luban.peft.adapter import switched_off
from luban.peft.opening import open_model

Reference = Callable[[], Any]
"""A context that gives the model as it was before training."""


def reference_of(policy: Any, *, base: Path, device: torch.device) -> Reference:
    """The policy without its adapter, or a frozen copy of it from `base`."""
    if any(parts(policy)):
        return lambda: _without_adapter(policy)
    frozen = open_model(base, device=device).eval().requires_grad_(False)
    return lambda: _as_it_is(frozen)


@contextmanager
def _without_adapter(policy: Any) -> Iterator[Any]:
    with switched_off(policy):
        yield policy


@contextmanager
def _as_it_is(model: Any) -> Iterator[Any]:
    yield model


def critic_for(judge: object, folder: Path | None, *, base: Path, device: torch.device) -> Any:
    """The critic: the model in `folder`, else a copy of the reward model, else `base` with a head that says 0."""
    if folder is not None:
        critic = open_model(folder, device=device, merge=True)
    elif isinstance(judge, Modelled):
        critic = copy.deepcopy(judge.model)
    else:
        critic = Classifier(open_model(base, device=device), 1).to(device)
        torch.nn.init.zeros_(critic.score.weight)
    if any(parts(critic)):
        what = "a critic is trained whole, and this one has an adapter that no weight can hold"
        raise ConfigError(what, where="setting 'critic'", hint="train the reward model with peft.method=lora")
    return critic.requires_grad_(True)


def critic_on(policy: Any) -> Classifier:
    """A critic whose trunk is the policy itself: a head on its states, which says 0."""
    critic = Classifier(policy, 1, words=True).to(policy.embedding.weight.device)
    torch.nn.init.zeros_(critic.score.weight)
    return critic


@torch.no_grad()
def remembered(
    policy: Any,
    reference: Reference | None,
    critic: Any | None,
    answers: Sequence[Answer],
    *,
    temperature: float,
    rows: int,
) -> tuple[Experience, Tensor]:
    """The answers with what policy, reference and critic say of them, and the policy's entropy at each action.

    Every model reads `rows` answers of similar length at a time; a critic on the policy's trunk has read them with it.
    The log-probabilities become the trainer's; how far the sampler's were from them is for `difference`.
    """
    policy.eval()
    experience = gathered(answers).to(policy.embedding.weight.device)
    shared = critic is not None and critic.backbone is policy

    def own(some: Experience) -> Sequence[Tensor]:
        states = chosen_states(policy, some)
        told = likelihood_from(states, policy, some, temperature=temperature)
        return (*told, expected_from(states, critic, some)) if shared else told

    def read(ask: Callable[[Experience], Any]) -> Any:
        return in_parts(ask, experience, rows=rows)

    logps, entropies, *values = read(own)
    if critic is not None and not shared:
        critic.eval()
        values = read(lambda some: (expected(critic, some),))
    experience = dataclasses.replace(experience, logps=logps, **({"values": values[0]} if values else {}))
    if reference is not None:
        experience = compared(experience, reference, temperature=temperature, rows=rows)
    return experience, entropies


@torch.no_grad()
def compared(experience: Experience, reference: Reference, *, temperature: float, rows: int) -> Experience:
    """The same with what the reference says of the actions."""
    with reference() as before:
        logps, _ = in_parts(
            lambda some: likelihood(before, some, temperature=temperature), experience, rows=rows
        )
    return dataclasses.replace(experience, reference_logps=logps)


def in_parts(
    ask: Callable[[Experience], Sequence[Tensor]], experience: Experience, *, rows: int
) -> list[Tensor]:
    """What `ask` says of all rows, asked of `rows` of similar length at a time."""
    order = experience.there.sum(1).add(experience.places.amax(1)).argsort().tolist()
    whole: list[Tensor] = []
    for start in range(0, len(order), rows):
        some = order[start : start + rows]
        answers = ask(experience.select(some))
        whole = whole or [answer.new_zeros(experience.there.shape) for answer in answers]
        for target, answer in zip(whole, answers, strict=True):
            target[torch.tensor(some), : answer.shape[1]] = answer
    return whole


def difference(experience: Experience, answers: Sequence[Answer], *, bound: float) -> dict[str, float]:
    """How far the sampler's log-probabilities are from the trainer's, on average and at most, per token.

    Raises TrainingError naming the prompt where an answer's mean is beyond `bound`: what is learned from would not
    be what was done.
    """
    sampled = gathered(answers).logps.to(experience.logps.device)
    apart = (sampled - experience.logps).abs()
    means = apart.sum(1) / experience.there.sum(1)
    worst = int(means.argmax())
    if not means[worst] <= bound:
        what = f"sampler and trainer differ by {float(means[worst]):.3f} nats a token; at most {bound} is allowed"
        raise TrainingError(what, where=answers[worst].prompt.where, hint="rollout.max_difference")
    return {
        "rollout/difference": float(apart[experience.there].mean()),
        "rollout/difference_max": float(apart.max()),
    }
