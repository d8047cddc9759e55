"""Proxy-tuning: a large model is steered, while it writes, by what tuning did to a small one.

logits = base + alpha * (expert - anti-expert)        expert: the small model tuned; anti-expert: before its tuning

The three look like one `CausalLM` to the loop: their states stand side by side in one tensor, which `head` cuts again.
So drawing, beam search and scoring work as they do with one model, and the base need not be on this machine
(`endpoint.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from luban.errors import ModelError
from luban.inference.endpoint import Endpoint
from luban.inference.local import LocalLM
from luban.nn.cache import Cache
from luban.tokenizers.files import FileTokenizer


@dataclass(frozen=True)
class ProxiedConfig:
    """What the loops ask of a model's config."""

    model_type: str
    vocab: int
    context: int


@dataclass(frozen=True)
class Slots:
    """One slot that holds those of several models."""

    caches: Sequence[Cache]

    def advance(self, tokens: int) -> None:
        """See `LayerCache.advance`."""
        for cache in self.caches:
            for slot in cache:
                slot.advance(tokens)

    def select(self, rows: Int[Tensor, " batch"]) -> None:
        """See `LayerCache.select`."""
        for cache in self.caches:
            for slot in cache:
                slot.select(rows)


class Proxied:
    """Three models over one vocabulary as one; see `CausalLM` for what each method promises.

    Where their embeddings are padded to different widths, nothing is changed at the ids that only some have.

    Source: Liu et al. 2024, section 2 (arXiv:2401.08565), where `alpha` is 1.
    """

    def __init__(self, base: Any, expert: Any, anti_expert: Any, *, alpha: float = 1.0) -> None:
        self.models, self.alpha = (base, expert, anti_expert), alpha
        self.embedding = expert.embedding
        self.config = ProxiedConfig(
            model_type=expert.config.model_type,
            vocab=base.config.vocab,
            context=min(model.config.context for model in self.models),
        )

    def make_cache(self, *, batch: int, capacity: int, valid: Tensor | None = None) -> Cache:
        """Empty slots of all three, as one."""
        return [Slots([m.make_cache(batch=batch, capacity=capacity, valid=valid) for m in self.models])]

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch last width"]:
        """The states of all three side by side, at the last positions, of which each has states."""
        caches = [None] * len(self.models) if cache is None else cache[0].caches
        states = [
            model.hidden(tokens, positions, own) for model, own in zip(self.models, caches, strict=True)
        ]
        last = min(state.shape[1] for state in states)
        return torch.cat([state[:, -last:].float() for state in states], -1)

    def head(self, states: Float[Tensor, "... width"]) -> Float[Tensor, "... vocab"]:
        """The base's logits, moved by what tuning did to the small model's."""
        parts = states.split([model.config.dim for model in self.models], -1)
        base, expert, anti_expert = (
            model.head(part.to(model.embedding.weight.dtype)).float()
            for model, part in zip(self.models, parts, strict=True)
        )
        width = min(logits.shape[-1] for logits in (base, expert, anti_expert))
        change = expert[..., :width] - anti_expert[..., :width]
        return base + self.alpha * F.pad(change, (0, base.shape[-1] - width))


def proxied(
    base: LocalLM | Endpoint, expert: LocalLM, anti_expert: LocalLM, *, alpha: float = 1.0
) -> LocalLM:
    """`base` as if it had been tuned as `expert` was from `anti_expert`.

    Raises ModelError unless all are decoders of one vocabulary; an endpoint's is taken to be the expert's.
    """
    local = [lm for lm in (base, expert, anti_expert) if isinstance(lm, LocalLM)]
    for lm in local:
        if not (lm.continues and hasattr(lm.model, "run_blocks")):
            raise ModelError("proxy-tuning is for decoders only", where=lm.name)
        _check_vocabulary(expert.tokenizer, lm.tokenizer, names=(expert.name, lm.name))
    model = Proxied(
        base.model if isinstance(base, LocalLM) else base, expert.model, anti_expert.model, alpha=alpha
    )
    return LocalLM(model, expert.tokenizer, name=f"{base.name} as {expert.name}")


def _check_vocabulary(first: FileTokenizer, second: FileTokenizer, *, names: tuple[str, str]) -> None:
    """Raise ModelError naming a token that is not the same id in both."""
    ours, theirs = first.vocabulary(), second.vocabulary()
    for token in sorted(ours.keys() | theirs.keys()):
        if ours.get(token) != theirs.get(token):
            ids = (
                f"{vocab.get(token, 'none')} in {name}"
                for vocab, name in zip((ours, theirs), names, strict=True)
            )
            what = f"the models have other vocabularies: '{token}' is {' and '.join(ids)}"
            raise ModelError(what, where="proxy-tuning", hint="three models of one tokenizer")
