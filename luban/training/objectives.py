"""What a family learns from raw text: one objective per kind of model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luban.data.batch import IGNORED, Batch
from luban.errors import ConfigError
from luban.models import FAMILIES, Family
from luban.models.ngram import NgramLM
from luban.tokenizers.files import FileTokenizer
from luban.training.denoising import damage_for, denoising
from luban.training.experts import evenly_used
from luban.training.masked import Vocabulary, masked_tokens
from luban.training.step import Objective, Step, compiled_hidden, next_token


def next_tokens(model: Any, *, compiled: bool, smoothing: float = 0.0) -> Objective:
    """What a causal model learns: `next_token`, and to use its experts if it has some."""
    hidden = compiled_hidden(model) if compiled else None
    return evenly_used(next_token(hidden, smoothing=smoothing), model)


def _next_token(model: Any, _tokenizer: FileTokenizer, compiled: bool) -> Objective:
    return next_tokens(model, compiled=compiled)


def _masked(model: Any, tokenizer: FileTokenizer, compiled: bool) -> Objective:
    return masked_tokens(model, tokenizer, compiled_hidden(model) if compiled else None)


def _denoising(model: Any, tokenizer: FileTokenizer, _compiled: bool) -> Objective:
    return denoising(model, tokenizer)  # not compiled: noise gives every batch lengths of its own


def _looked_up(_model: Any, _tokenizer: FileTokenizer, _compiled: bool) -> Objective:
    return looked_up


OBJECTIVES: dict[str, Callable[[Any, FileTokenizer, bool], Objective]] = {
    "causal": _next_token,
    "masked": _masked,
    "seq2seq": _denoising,
    "counted": _looked_up,
}
"""By the family's `kind`; each takes the model, its tokenizer, and whether to compile it."""


def looked_up(model: NgramLM, batch: Batch) -> Step:
    """What a counted model says of every next token: a loss to compare, from which nothing is learned."""
    states = model.hidden(batch.tokens, None, model.isolate(batch.documents) if batch.packed else None)
    asked = batch.targets != IGNORED
    loss = -model.logps(states[asked], batch.targets[asked]).double().sum()
    return Step(loss, batch.target_count)


def objective_for(model: Any, tokenizer: FileTokenizer, *, compiled: bool) -> Objective:
    """The objective of pretraining `model`; raises ConfigError where a family has none."""
    family = _trained(model.config)
    return OBJECTIVES[family.kind](model, tokenizer, compiled and family.compiles)


def check_tokenizer(config: Any, tokenizer: FileTokenizer, *, longest: int) -> None:
    """Raise TokenizerError if a family's objective, on rows of `longest` tokens, writes tokens that are not there.

    Raises ConfigError where a family has none.
    """
    kind = _trained(config).kind
    if kind == "masked":
        Vocabulary.of(tokenizer)
        if not config.word_head:
            what = f"a {config.architecture} has no head for hidden words, so there is nothing to train"
            raise ConfigError(what, where="setting 'model'")
    elif kind == "seq2seq":
        damage_for(config, tokenizer, longest=longest)


def _trained(config: Any) -> Family:
    family = FAMILIES[config.model_type]
    if family.kind not in OBJECTIVES:
        raise ConfigError(f"'{config.model_type}' models are not trained on text", where="setting 'model'")
    return family
