"""What PPO holds beside the policy that it trains: critic, reference and reward model, each as large as the policy.

Activations are one model's at a time, as reading and learning go from role to role; what the rollout's cache takes
is given back before, and the backward pass needs more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from luban.training.memory import QUICK_LOGIT_COPIES, STATE_BYTES, logits_bytes

Trunk = Literal["shared", "separate"]

LIKELIHOOD_COPIES = 4
"""Chunks of logits at once where log-probabilities are learned from (`alignment/likelihood.py`): they, their gradient,
the logits' gradient, and that with its axes exchanged."""


def ppo_bytes(
    trained: Mapping[str, float],
    *,
    body: int,
    whole: int,
    vocab: int,
    tokens: int,
    trunk: Trunk,
    adapted: bool,
) -> dict[str, float]:
    """The parts of a process that learns by PPO, from those of one that only trains the policy (`saved.py`).

    A `body` is a model without its head for words, as critic and reward model are; `whole` is the reference, which
    an adapted policy is itself. A separate critic has weights and moments; its gradients come as its activations go.
    `tokens` are those of a forward pass.
    """
    states = STATE_BYTES["float32"]
    roles = {
        "critic": body * (states.weights + states.optimizer) if trunk == "separate" else 0,
        "reference": 0 if adapted else whole * states.weights,
        "reward": body * states.weights,
    }
    logits = logits_bytes(vocab, tokens, copies=LIKELIHOOD_COPIES - QUICK_LOGIT_COPIES)
    heap = trained["heap"] * logits / (trained["activations"] + trained["logits"])
    parts = {name: size for name, size in trained.items() if name != "total"} | roles
    parts |= {"logits": trained["logits"] + logits, "heap": trained["heap"] + heap}
    return {**parts, "total": sum(parts.values())}
