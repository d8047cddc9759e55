"""The model that `classify` starts from: a pretrained one that gets a head, or a classifier that goes on learning."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

from luban.errors import ConfigError
from luban.models import FAMILIES, hf
from luban.models.classifier import Classifier
from luban.models.headed import HeadConfig
from luban.nn.init import initialise
from luban.nn.linear import Linear
from luban.tokenizers.files import FileTokenizer
from luban.training.architecture import check_fit
from luban.training.learner import Learner
from luban.tuning.adapted_head import adapted_head

if TYPE_CHECKING:
    from luban.tuning.classify import Config


def check_model(config: Config, shape: Any, tokenizer: FileTokenizer) -> None:
    """Raise ConfigError where the model cannot do what is asked of it."""
    body = shape.body if isinstance(shape, HeadConfig) else shape
    check_fit(body, tokenizer, max_length=config.loop.max_length)
    kind = FAMILIES[body.model_type].kind
    if kind not in ("causal", "masked"):
        what = f"'{body.model_type}' models are neither decoders nor encoders: they take no head for classes"
        raise ConfigError(what, where="setting 'model'")
    for name in ("tp", "pp"):
        if getattr(config.parallel, name) > 1:
            what = "a classifier is not cut up, it works on copies"
            raise ConfigError(what, where=f"setting 'parallel.{name}'", hint="parallel.dp, parallel.zero=3")
    if kind == "masked":
        for name, usual in (("pooling", "last"), ("lm_weight", 0.0)):
            if getattr(config, name) != usual:
                what = (
                    f"{name}={getattr(config, name)} is for decoders; an encoder is read at its first token"
                )
                raise ConfigError(what, where=f"setting '{name}'")


def open_classifier(
    config: Config, labels: tuple[str, ...], place: torch.device
) -> tuple[Classifier, Learner | None]:
    """The classifier on `place`, with what of it is trained; raises ConfigError for labels that are not its own."""
    model, new_pooler = hf.load(config.model), False
    if not isinstance(model, Classifier):
        new_pooler = _lacks_pooler(model)
        model = _with_head(config, model, labels)
    elif model.config.labels != labels:
        what = f"the classifier tells {', '.join(model.config.labels)} apart, the rows {', '.join(labels)}"
        raise ConfigError(what, where="setting 'model'", hint="labels=... in the model's order, or its base")
    model = model.to(place)
    if config.frozen:
        model.backbone.requires_grad_(False)
    learner = adapted_head(model, config.peft, base=config.model, parallel=config.parallel)
    if new_pooler:
        model.backbone.pooler.requires_grad_(True)
    if learner is not None:
        print(f"classify: {learner.told()}", file=sys.stderr)
    return model, learner


def _lacks_pooler(model: Any) -> bool:
    return FAMILIES[model.config.model_type].kind == "masked" and model.pooler is None


def _with_head(config: Config, model: Any, labels: tuple[str, ...]) -> Classifier:
    if _lacks_pooler(model):
        model.pooler = Linear(model.config.dim, model.config.dim)
        initialise(model.pooler, layers=1)
        print("classify: the encoder has no pooler; a new one is learnt with the head", file=sys.stderr)
    problem = "multi_label_classification" if config.multi_label else "single_label_classification"
    words = config.lm_weight > 0 and not model.config.tied
    return Classifier(model, labels, problem=problem, pooling=config.pooling, words=words)
