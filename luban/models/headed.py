"""A pretrained model that carries a head for a task: what the heads share, and how their folders are laid out.

The head is one linear layer, `score`, on the states of a `backbone`. Its config is the backbone's with what the head
tells apart; files are Hugging Face's `...ForSequenceClassification` and the like. `heads.py` has the tasks.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from luban.errors import ModelError, PromptError
from luban.models import FAMILIES
from luban.models.base import labels_as_entries, labels_entry, reject_unsupported
from luban.models.names import Fused, Names
from luban.nn.cache import Cache
from luban.nn.init import initialise
from luban.nn.linear import Linear

Task = Literal["sentence", "tokens", "spans"]
SUFFIXES: Mapping[Task, str] = {
    "sentence": "ForSequenceClassification",
    "tokens": "ForTokenClassification",
    "spans": "ForQuestionAnswering",
}
"""What HF's class names end with, after the family's own word."""
SPAN_ENDS = ("start", "end")
Problem = Literal["single_label_classification", "multi_label_classification", "regression"]
"""HF's names: exactly one label, any number of them, or one number."""
POOLING, WORDS = "luban_pooling", "luban_lm_head"
"""Our entries beside HF's: where a decoder is read if not at its last token, and that a head for words is kept."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A backbone's config with what the head on it tells apart; it has all of the backbone's fields too."""

    body: Any
    """The family's own config."""
    task: Task
    labels: tuple[str, ...]
    """In the order of the head's outputs."""
    problem: Problem = "single_label_classification"
    """Of a classifier of texts."""
    pooling: Literal["last", "first"] = "last"
    """At which token a decoder is read; an encoder is at its first."""
    words: bool = False
    """Keep the head for words of a decoder that is not tied (a tied one has it anyway), to go on learning text."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "body":  # asked for while a copy is not filled yet
            raise AttributeError(name)
        return getattr(self.body, name)

    @property
    def encoder(self) -> bool:
        """Whether the body sees both sides of a token."""
        return FAMILIES[self.body.model_type].kind == "masked"

    @classmethod
    def from_hf(cls, entries: Mapping[str, Any]) -> Self:
        """Read HF's `config.json`; raises ModelError as the families do."""
        task = task_of(entries)
        assert task is not None, "who calls has asked"
        labels = SPAN_ENDS if task == "spans" else labels_entry(entries)
        numbers = ("regression",) if len(labels) == 1 else ()
        known = ("single_label_classification", "multi_label_classification", *numbers)
        reject_unsupported(entries, {"problem_type": known, POOLING: ("last", "first")})
        return cls(
            body=_body_config(entries, task),
            task=task,
            labels=labels,
            problem=entries.get("problem_type") or problem_of(labels),
            pooling=entries.get(POOLING) or "last",
            words=bool(entries.get(WORDS)),
        )

    def to_hf(self) -> dict[str, Any]:
        """What `from_hf` reads, with HF's class name."""
        body = self.body.to_hf()
        more: dict[str, Any] = {} if self.task == "spans" else labels_as_entries(self.labels)
        if self.task == "sentence":
            more["problem_type"] = self.problem
        if self.pooling != "last":
            more[POOLING] = self.pooling
        if self.words:
            more[WORDS] = True
        return {**body, "architectures": [_family_word(body) + SUFFIXES[self.task]], **more}


def problem_of(labels: Sequence[str]) -> Problem:
    """What a classifier of these labels answers, where nobody says: one of them, or a number."""
    return "regression" if len(labels) == 1 else "single_label_classification"


def task_of(entries: Mapping[str, Any]) -> Task | None:
    """The task of the head that a `config.json` tells of; None for a model without one."""
    family = FAMILIES.get(entries.get("model_type", ""))
    if family is None or family.kind not in ("masked", "causal"):
        return None
    (architecture, *_) = entries.get("architectures") or [""]
    return next((task for task, suffix in SUFFIXES.items() if architecture.endswith(suffix)), None)


class Headed(nn.Module):
    """A backbone and its head; takes the backbone over, an encoder without its heads of pretraining.

    Blocks, embedding, `hidden` and `isolate` are the backbone's, so that training treats both alike.
    """

    task: ClassVar[Task]
    pools: ClassVar[bool] = False
    fewest: ClassVar[int] = 2
    """Labels a head must have."""

    def __init__(self, backbone: Any, labels: Sequence[str], **settings: Any) -> None:
        """`settings` are fields of `HeadConfig`. Raises ModelError for labels or a family that cannot be."""
        super().__init__()
        family = FAMILIES[backbone.config.model_type]
        if family.kind not in ("masked", "causal"):
            what = f"'{backbone.config.model_type}' takes no head for tasks: its kind is '{family.kind}'"
            raise ModelError(what)
        if len(labels) < self.fewest or len(set(labels)) < len(labels):
            what = f"labels are {', '.join(labels) or 'none'}; a head tells two or more apart"
            raise ModelError(what)
        if family.kind == "masked":
            backbone.keep_encoder(pooler=self.pools)
        self.backbone = backbone
        self.config = HeadConfig(body=backbone.config, task=self.task, labels=tuple(labels), **settings)
        if not (self.config.encoder or self.config.words or backbone.config.tied):
            backbone.head = None
        bias = self.config.encoder or self.task != "sentence"  # the decoders' `score` has none
        self.score = Linear(backbone.config.dim, len(labels), bias=bias)
        initialise(self.score, layers=1)

    @classmethod
    def of(cls, config: HeadConfig) -> Self:
        """A model of `config` with random weights."""
        settings = {name: getattr(config, name) for name in ("problem", "pooling", "words")}
        return cls(FAMILIES[config.body.model_type].model(config.body), config.labels, **settings)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.backbone.blocks

    @property
    def embedding(self) -> nn.Embedding:
        return self.backbone.embedding

    def tie(self) -> None:
        """Share the backbone's embedding with its own head."""
        self.backbone.tie()

    def hidden(self, *arguments: Any, **named: Any) -> Float[Tensor, "batch seq dim"]:
        """The backbone's states; takes what its `hidden` takes."""
        return self.backbone.hidden(*arguments, **named)

    def isolate(self, documents: Int[Tensor, "batch seq"]) -> Cache:
        """Slots for a pass over packed rows in which documents, and padding, do not see each other."""
        return self.backbone.isolate(documents)

    def states(
        self,
        tokens: Int[Tensor, "batch seq"],
        segments: Int[Tensor, "batch seq"] | None = None,
        valid: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """The backbone's states; `valid` is False at padding, which stands on the right of a decoder's rows.

        Raises PromptError for segments, or padding on the left, that a decoder cannot take.
        """
        if self.config.encoder:
            return self.backbone.hidden(tokens, cache=self.backbone.padded(valid), segments=segments)
        if segments is not None:
            raise PromptError("a decoder has no segments", hint="part the two texts by a token of their own")
        if valid is not None and not bool(valid[:, 0].all()):
            raise PromptError("a decoder's rows are padded on the right; a row begins with padding")
        return self.backbone.hidden(tokens)


def names_of(config: HeadConfig) -> Names:
    """The family's table for a backbone under `backbone.`, with a line for the head."""
    names = FAMILIES[config.body.model_type].names
    prefix = names.prefix
    if config.task == "spans" and not config.encoder:
        prefix = "transformer."  # HF's name there for the body of every decoder
    modules = {
        re.sub(f"^{re.escape(names.prefix)}", prefix, theirs): _inside(ours)
        for theirs, ours in names.modules.items()
    }
    if config.task == "sentence" and config.body.model_type == "roberta":
        del modules["roberta.pooler.dense"]
        modules["classifier.dense"] = "backbone.pooler"  # the same layer, which HF has in the head
    return dataclasses.replace(names, prefix=prefix, modules={**modules, _head_name(config): "score"})


def _inside(ours: str | Fused) -> str | Fused:
    if isinstance(ours, str):
        return f"backbone.{ours}"
    return dataclasses.replace(ours, modules=tuple(f"backbone.{module}" for module in ours.modules))


def _head_name(config: HeadConfig) -> str:
    """HF's name of the head's weights."""
    if config.task == "spans":
        return "qa_outputs"
    if config.task == "sentence" and config.body.model_type == "roberta":
        return "classifier.out_proj"
    scored = not config.encoder and (config.task == "sentence" or config.body.model_type != "gpt2")
    return "score" if scored else "classifier"


def _body_config(entries: Mapping[str, Any], task: Task) -> Any:
    """The family's config of what the head stands on."""
    body = {"architectures": [_family_word(entries) + "Model"], "add_pooling_layer": task == "sentence"}
    return FAMILIES[entries["model_type"]].config.from_hf({**entries, **body})


def _family_word(entries: Mapping[str, Any]) -> str:
    """How HF's class names of the family begin: `Bert`, `GPT2`, `Llama`."""
    (architecture, *_) = entries["architectures"]
    found = re.fullmatch(r"(.+?)(For[A-Z]\w*|LMHeadModel|Model)", architecture)
    if found is None:
        raise ModelError(f"architecture '{architecture}' is not of the form NameForTask")
    return found[1]
