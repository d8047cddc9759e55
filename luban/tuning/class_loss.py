"""What a classifier learns: the class of each text, and if asked for the text itself beside it.

one label      cross-entropy of the scores          several   binary cross-entropy of each label, averaged
with lambda    L = L_class + lambda L_text          (GPT-1: 0.5)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from luban.data.batch import IGNORED, Batch
from luban.evaluation.classes import decided, label_counts, macro_f1
from luban.training.loop import Validate
from luban.training.parallel.world import World
from luban.training.step import Step
from luban.tuning.class_rows import real, segments_in, truth_in


class ClassLoss:
    """The objective of a classifier, summed over the texts of a batch, in nats a text.

    `separator` is given where an encoder reads pairs: it tells segments apart. `weights` are of the labels, and
    `words` is lambda: how much the mean loss of a text's next tokens counts. `judged` is the plain class loss, which
    validation asks for; it notes down in `tally` what the model answered.

    Source: Devlin et al. 2019, section 4.1 (arXiv:1810.04805); Radford et al. 2018, eq. 5.
    """

    def __init__(
        self,
        labels: int,
        *,
        separator: int | None = None,
        weights: Tensor | None = None,
        words: float = 0.0,
    ) -> None:
        self.labels, self.separator, self.weights, self.words = labels, separator, weights, words
        self.hidden: Callable[..., Tensor] | None = None
        """In place of the model's `hidden`: compiled, for example."""
        self.tally = Tally(labels)

    def learned(self, model: Any, batch: Batch) -> Step:
        """What training minimises."""
        states, scores, codes = self._read(model, batch)
        loss = class_loss(scores, codes, multi_label=_several(model), weights=self.weights)
        if self.words:
            loss = loss + self.words * text_loss(model.backbone, states, batch)
        return Step(loss, len(codes))

    def judged(self, model: Any, batch: Batch) -> Step:
        """The class loss alone, without weights."""
        _, scores, codes = self._read(model, batch)
        self.tally.note(scores, codes, multi_label=_several(model))
        return Step(class_loss(scores, codes, multi_label=_several(model)), len(codes))

    def _read(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """States of all places; scores and targets of each text."""
        alone = not (
            batch.packed or model.config.encoder
        )  # then nobody looks at padding, which stands behind
        cache = None if alone else model.isolate(batch.documents)
        read = self.hidden or model.hidden
        if self.separator is None:
            states = read(batch.tokens, batch.positions, cache)
        else:
            states = read(batch.tokens, batch.positions, cache, None, segments_in(batch, self.separator))
        places = batch.targets != IGNORED
        return states, model.scored(states[places]).float(), batch.targets[places]


def class_loss(
    scores: Float[Tensor, "texts labels"],
    codes: Int[Tensor, " texts"],
    *,
    multi_label: bool,
    weights: Float[Tensor, " labels"] | None = None,
) -> Float[Tensor, ""]:
    """Summed over texts. With several labels a text, `weights` are of their presence, and labels are averaged."""
    if not multi_label:
        return F.cross_entropy(scores, codes, weight=weights, reduction="sum")
    truth = truth_in(codes, scores.shape[1], multi_label=True).to(scores.dtype)
    each = F.binary_cross_entropy_with_logits(scores, truth, pos_weight=weights, reduction="none")
    return each.mean(1).sum()


def text_loss(backbone: Any, states: Float[Tensor, "batch seq dim"], batch: Batch) -> Float[Tensor, ""]:
    """Each text's mean loss of its next tokens, summed over texts; all their logits are held at once."""
    follows = (batch.documents[:, 1:] == batch.documents[:, :-1]) & real(batch)[:, 1:]
    logits = backbone.head(states[:, :-1][follows]).float()
    losses = F.cross_entropy(logits, batch.tokens[:, 1:][follows], reduction="none")
    rows = torch.arange(len(follows), device=follows.device)[:, None] * batch.documents.shape[1]
    _, text, lengths = (rows + batch.documents[:, 1:])[follows].unique(
        return_inverse=True, return_counts=True
    )
    return (losses / lengths[text]).sum()


def balanced(truth: Int[np.ndarray, "rows labels"], *, multi_label: bool) -> Float[Tensor, " labels"]:
    """Weights that let every label count alike: rows / (labels x rows of it); with several, rows without / with it.

    A label without a row weighs 0.
    """
    found = truth.sum(0)
    wanted = len(truth) - found if multi_label else np.full(len(found), len(truth) / len(found))
    return torch.tensor(
        np.divide(wanted, found, out=np.zeros(len(found)), where=found > 0), dtype=torch.float32
    )


class Tally:
    """How a model's answers compare with the truth, text by text."""

    def __init__(self, labels: int) -> None:
        self.texts, self.right = 0, 0
        self.counts = np.zeros((3, labels), np.int64)
        """As `evaluation.classes.label_counts`."""

    def note(self, scores: Tensor, codes: Tensor, *, multi_label: bool) -> None:
        """Add some texts."""
        truth = truth_in(codes, scores.shape[1], multi_label=multi_label).cpu().numpy()
        probabilities = (scores.sigmoid() if multi_label else scores).detach().cpu().numpy()
        guesses = decided(probabilities, multi_label=multi_label)
        self.texts += len(truth)
        self.right += int((truth == guesses).all(1).sum())
        self.counts += label_counts(truth, guesses)

    def figures(self, world: World) -> dict[str, float]:
        """`val/accuracy` and `val/macro_f1` of what all processes noted."""
        texts, right, *counts = world.total(self.texts, self.right, *self.counts.ravel().tolist())
        summed = np.array(counts).astype(np.int64).reshape(3, -1)
        return {"val/accuracy": right / texts, "val/macro_f1": macro_f1(summed)}


def told_by(loss: ClassLoss, validate: Validate, world: World) -> Validate:
    """`validate`, which asks for `loss.judged`, with accuracy and macro F1 of the same texts."""

    def whole() -> dict[str, float]:
        loss.tally = Tally(loss.labels)
        return {**validate(), **loss.tally.figures(world)}

    return whole


def _several(model: Any) -> bool:
    return model.config.problem == "multi_label_classification"
