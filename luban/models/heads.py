"""A pretrained model with a head for a task: one answer for a text or a pair, for each token, or a span of them.

The head is one linear layer on the states of any encoder or decoder. An encoder is read at its pooled first
token, a decoder at its last real one, the only one that has seen the whole text. Folders are laid out as HF's
`...ForSequenceClassification`, `...ForTokenClassification` and `...ForQuestionAnswering`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from luban.device import dtype_named
from luban.errors import DataError, ModelError, PromptError
from luban.folder import read_json
from luban.models import FAMILIES, hf
from luban.models.base import labels_as_entries, labels_entry, reject_unsupported
from luban.models.names import Fused, Names
from luban.nn.init import initialise
from luban.nn.linear import Linear

Task = Literal["sentence", "tokens", "spans"]
SUFFIXES: Mapping[Task, str] = {
    "sentence": "ForSequenceClassification",
    "tokens": "ForTokenClassification",
    "spans": "ForQuestionAnswering",
}
"""What HF's class names end with, after the family's own word."""
SUPPORTED = {"problem_type": ("single_label_classification",)}
SPAN_ENDS = ("start", "end")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A body's config, and what the head on it tells apart."""

    body: Any
    """The family's own."""
    task: Task
    labels: tuple[str, ...]
    """In the order of the head's outputs."""

    @property
    def tied(self) -> bool:
        return self.body.tied

    @property
    def encoder(self) -> bool:
        """Whether the body sees both sides of a token."""
        return FAMILIES[self.body.model_type].kind == "masked"

    def to_hf(self) -> dict[str, Any]:
        """HF's `config.json`."""
        body = self.body.to_hf()
        labels = {} if self.task == "spans" else labels_as_entries(self.labels)
        return {**body, "architectures": [_family_word(body) + SUFFIXES[self.task]], **labels}


class Headed(nn.Module):
    """A body and its head; takes the body over, an encoder without its heads of pretraining."""

    task: ClassVar[Task]
    pools: ClassVar[bool] = False

    def __init__(self, model: Any, labels: Sequence[str]) -> None:
        """Raises ModelError for less than two labels, or for a family that is neither encoder nor decoder."""
        super().__init__()
        kind = FAMILIES[model.config.model_type].kind
        if kind not in ("masked", "causal"):
            raise ModelError(f"'{model.config.model_type}' takes no head for tasks: its kind is '{kind}'")
        if len(set(labels)) < 2 or len(set(labels)) < len(labels):
            raise ModelError(f"labels are {', '.join(labels) or 'none'}; a head tells two or more apart")
        if kind == "masked":
            model.keep_encoder(pooler=self.pools)
        self.model = model
        self.config = HeadConfig(body=model.config, task=self.task, labels=tuple(labels))
        bias = self.config.encoder or self.task != "sentence"  # the decoders' `score` has none
        self.scorer = Linear(model.config.dim, len(labels), bias=bias)
        initialise(self.scorer, layers=1)

    def tie(self) -> None:
        """Share the body's embedding with its own head."""
        self.model.tie()

    def states(
        self,
        tokens: Int[Tensor, "batch seq"],
        segments: Int[Tensor, "batch seq"] | None = None,
        valid: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """The body's states; `valid` is False at padding, which stands on the right of a decoder's rows.

        Raises PromptError for segments, or padding on the left, that a decoder cannot take.
        """
        if self.config.encoder:
            return self.model.hidden(tokens, cache=self.model.padded(valid), segments=segments)
        if segments is not None:
            raise PromptError("a decoder has no segments", hint="part the two texts by a token of their own")
        if valid is not None and not bool(valid[:, 0].all()):
            raise PromptError("a decoder's rows are padded on the right; a row begins with padding")
        return self.model.hidden(tokens)


class SentenceClassifier(Headed):
    """One label for a text, or for a pair of texts in one row.

    Source: Devlin et al. 2019, section 4.1 (arXiv:1810.04805); Radford et al. 2018 (GPT), sections 3.2 and 3.3.
    """

    task = "sentence"
    pools = True

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        segments: Int[Tensor, "batch seq"] | None = None,
        valid: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch labels"]:
        """Logits of each row's labels."""
        return self._scores(self.states(tokens, segments, valid), valid)

    def loss(
        self,
        tokens: Int[Tensor, "batch seq"],
        labels: Int[Tensor, " batch"],
        *,
        segments: Int[Tensor, "batch seq"] | None = None,
        valid: Bool[Tensor, "batch seq"] | None = None,
        lm_weight: float = 0.0,
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of the labels, plus `lm_weight` times that of a decoder's next tokens.

        Source: Radford et al. 2018, eq. 5: L3 = L2 + lambda L1, there with lambda 0.5.
        """
        states = self.states(tokens, segments, valid)
        loss = F.cross_entropy(self._scores(states, valid).float(), labels)
        if not lm_weight:
            return loss
        if self.config.encoder:
            raise ModelError(f"lm_weight is {lm_weight}; an encoder predicts no next token")
        known = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
        logits = self.model.head(states[:, :-1][known[:, 1:]]).float()
        return loss + lm_weight * F.cross_entropy(logits, tokens[:, 1:][known[:, 1:]])

    def _scores(self, states: Tensor, valid: Tensor | None) -> Float[Tensor, "batch labels"]:
        if self.config.encoder:
            return self.scorer(self.model.pooled(states))
        last = states.shape[1] - 1 if valid is None else valid.sum(1) - 1
        return self.scorer(states[torch.arange(len(states), device=states.device), last])


class TokenClassifier(Headed):
    """One label for each token: names, parts of speech.

    Source: Devlin et al. 2019, section 5.3.
    """

    task = "tokens"

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        segments: Int[Tensor, "batch seq"] | None = None,
        valid: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq labels"]:
        """Logits of each token's labels."""
        return self.scorer(self.states(tokens, segments, valid))


class SpanReader(Headed):
    """Where in the second text the answer to the first begins and ends.

    Source: Devlin et al. 2019, section 4.2.
    """

    task = "spans"

    def __init__(self, model: Any, labels: Sequence[str] = SPAN_ENDS) -> None:
        super().__init__(model, labels)

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        segments: Int[Tensor, "batch seq"] | None = None,
        valid: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq 2"]:
        """For each token, the logits of a span's beginning and of its end there."""
        return self.scorer(self.states(tokens, segments, valid))


def best_spans(
    logits: Float[Tensor, "batch seq 2"], allowed: Bool[Tensor, "batch seq"], *, longest: int
) -> Int[Tensor, "batch 2"]:
    """For each row, the first and the last token of the likeliest span among `allowed` tokens.

    A span ends no sooner than it begins, and has at most `longest` tokens.
    """
    scores = logits.float().masked_fill(~allowed[..., None], -torch.inf)
    both = scores[:, :, None, 0] + scores[:, None, :, 1]  # [batch, start, end]
    fits = torch.ones_like(both[0], dtype=torch.bool).triu().tril(longest - 1)
    best = both.masked_fill(~fits, -torch.inf).flatten(1).argmax(1)
    return torch.stack([best // logits.shape[1], best % logits.shape[1]], 1)


HEADS: Mapping[Task, type[Headed]] = {
    "sentence": SentenceClassifier,
    "tokens": TokenClassifier,
    "spans": SpanReader,
}


def load(folder: str | Path, *, dtype: str = "float32", device: str | torch.device = "cpu") -> Headed:
    """The model and head in `folder`; raises ModelError as `hf.load` does, and for an architecture without task."""
    folder = Path(folder)
    entries = _entries(folder)
    try:
        task = _task(entries)
        reject_unsupported(entries, SUPPORTED)
        labels = SPAN_ENDS if task == "spans" else labels_entry(entries)
        body = _body_config(entries, task)
    except ModelError as error:
        raise ModelError(error.what, where=folder / hf.CONFIG, hint=error.hint) from None
    body = dataclasses.replace(body, dtype=body.dtype if dtype == "auto" else dtype)
    with torch.device("meta"):
        model = HEADS[task](FAMILIES[body.model_type].model(body), labels)
    hf.read_weights(model, _names(model.config), folder, dtype=dtype_named(body.dtype), device=device)
    return model


def save(model: Headed, folder: str | Path) -> None:
    """Write config and weights as HF's class for this task has them."""
    dtype = str(model.scorer.weight.dtype).removeprefix("torch.")
    config = dataclasses.replace(model.config, body=dataclasses.replace(model.config.body, dtype=dtype))
    hf.write_model(model, _names(config), config.to_hf(), Path(folder))


def _entries(folder: Path) -> dict[str, Any]:
    path = folder / hf.CONFIG
    try:
        entries = read_json(path)
    except DataError as error:
        raise ModelError(error.what, where=path) from None
    if not isinstance(entries, dict):
        raise ModelError("a config is a JSON object", where=path)
    return entries


def _task(entries: Mapping[str, Any]) -> Task:
    architecture = (entries.get("architectures") or ["nothing"])[0]
    for task, suffix in SUFFIXES.items():
        if architecture.endswith(suffix):
            return task
    known = ", ".join(f"...{suffix}" for suffix in SUFFIXES.values())
    raise ModelError(f"architecture '{architecture}' is of no task; known are {known}")


def _body_config(entries: Mapping[str, Any], task: Task) -> Any:
    """The family's config of what the head stands on."""
    family = FAMILIES.get(entries.get("model_type", ""))
    if family is None or family.kind not in ("masked", "causal"):
        raise ModelError(f"model_type {entries.get('model_type')!r} takes no head for tasks")
    body = {"architectures": [_family_word(entries) + "Model"], "add_pooling_layer": task == "sentence"}
    return family.config.from_hf({**entries, **body})


def _family_word(entries: Mapping[str, Any]) -> str:
    """How HF's class names of the family begin: `Bert`, `GPT2`, `Llama`."""
    (architecture, *_) = entries["architectures"]
    found = re.fullmatch(r"(.+?)(For[A-Z]\w*|LMHeadModel|Model)", architecture)
    if found is None:
        raise ModelError(f"architecture '{architecture}' is not of the form NameForTask")
    return found[1]


def _names(config: HeadConfig) -> Names:
    """The family's table for a body under `model.`, with a line for the head."""
    names = FAMILIES[config.body.model_type].names
    prefix = names.prefix
    if config.task == "spans" and not config.encoder:
        prefix = "transformer."  # HF's name there for the body of every decoder
    modules = {
        re.sub(f"^{re.escape(names.prefix)}", prefix, theirs): _inside(ours)
        for theirs, ours in names.modules.items()
    }
    return dataclasses.replace(names, prefix=prefix, modules={**modules, _head_name(config): "scorer"})


def _inside(ours: str | Fused) -> str | Fused:
    if isinstance(ours, str):
        return f"model.{ours}"
    return dataclasses.replace(ours, modules=tuple(f"model.{module}" for module in ours.modules))


def _head_name(config: HeadConfig) -> str:
    """HF's name of the head's weights."""
    if config.task == "spans":
        return "qa_outputs"
    scored = not config.encoder and (config.task == "sentence" or config.body.model_type != "gpt2")
    return "score" if scored else "classifier"
