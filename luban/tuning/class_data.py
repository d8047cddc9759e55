"""The labelled texts of a run of `classify`: read, split, laid out as rows, and what the loss is to know of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from luban.data.loader import Loader, Source, Targeted
from luban.data.progress import announce
from luban.data.rejected import Tally, raise_rejected
from luban.errors import DataError
from luban.models.headed import HeadConfig
from luban.tokenizers.files import FileTokenizer
from luban.training.parallel.world import World
from luban.training.rows import whole_documents
from luban.tuning.class_loss import ClassLoss, balanced
from luban.tuning.class_rows import ClassLoader, Layout, codes_of, encode_rows, targeted
from luban.tuning.labelled import (
    Labelled,
    check_labels,
    counts_of,
    label_set,
    read_labelled,
    split_rows,
    targets_of,
)

if TYPE_CHECKING:
    from luban.tuning.classify import Config

PARTS = ("train", "validation", "test")


@dataclass
class ClassData:
    """Rows by part (`PARTS`), and the classes in the order of the head's outputs."""

    labels: tuple[str, ...]
    multi_label: bool
    parts: dict[str, list[Labelled]]
    tally: Tally
    repeated: int = 0
    """Rows left out because another one, of any part, has the same texts."""
    examples: dict[str, list[Targeted]] = field(default_factory=dict)
    """Rows as the loader takes them, once they are encoded; the test's are read as new texts are."""
    separator: int | None = None
    """What parts two texts in an encoder that tells them apart."""

    def encode(
        self, tokenizer: FileTokenizer, config: HeadConfig, *, separator: str, max_tokens: int
    ) -> None:
        """Fill `examples`; raises DataError for a text without tokens, TokenizerError for missing marks."""
        layout = Layout.of(tokenizer, config, separator=separator, max_tokens=max_tokens)
        pairs = self.parts["train"][0].second is not None
        if pairs and config.encoder and config.body.segments > 1:
            (self.separator,) = layout.between
        for part in PARTS[:2]:
            rows = self.parts[part]
            encoded = encode_rows(tokenizer, rows, layout)
            codes = codes_of(targets_of(rows, self.labels), multi_label=self.multi_label)
            self.examples[part] = [
                targeted(ids, int(code), first=layout.first)
                for ids, code in zip(encoded.ids, codes, strict=True)
            ]
            self.tally.truncated += encoded.truncated

    def loader(self, config: Config, part: str, world: World, *, epochs: int | None) -> Loader:
        """Batches of a part for one process of `world`."""
        source = Source(examples=self.examples[part], name=part)
        return whole_documents(config, [source], world, epochs=epochs, kind=ClassLoader)

    def loss(self, config: Config, head: HeadConfig, place: torch.device) -> ClassLoss:
        """What a model with this head is to learn of these texts."""
        weights = None
        if config.class_weights == "balanced":
            truth = targets_of(self.parts["train"], self.labels)
            weights = balanced(truth, multi_label=self.multi_label).to(place)
        return ClassLoss(len(head.labels), separator=self.separator, weights=weights, words=config.lm_weight)

    def counts(self) -> dict[str, Any]:
        """What became of the rows."""
        sizes = {f"{part}_rows": len(self.parts[part]) for part in PARTS}
        lost = {"rejected": len(self.tally.rejected), "repeated": self.repeated}
        return {**sizes, **lost, "truncated": self.tally.truncated}

    def told(self) -> str:
        """`counts` for people, with the classes."""
        numbers = ", ".join(f"{name} {count:,}" for name, count in self.counts().items())
        classes = counts_of(self.parts["train"], self.labels)
        shown = ", ".join(f"{label} {count:,}" for label, count in list(classes.items())[:12])
        reasons = "".join(f"\n  rejected {rejected}" for rejected in self.tally.rejected[:5])
        return f"{numbers}; of {len(classes)} classes: {shown}{reasons}"


def read_data(config: Config) -> ClassData:
    """The rows of `data`, and of `test_data`, split; raises DataError for a wrong row, as `on_bad_row` says."""
    tally, known = Tally(), set[tuple[str, str | None]]()
    rows = _rows(config, config.data, tally, known)
    labels = label_set(rows, config.labels, multi_label=config.multi_label)
    if config.max_rows is not None:
        order = np.random.default_rng(config.seed).permutation(len(rows))[: config.max_rows]
        rows = [rows[place] for place in sorted(order)]
    shares = (config.validation, 0.0 if config.test_data else config.test)
    train, (validation, test) = split_rows(rows, shares, seed=config.seed)
    if config.test_data:
        test = _rows(config, config.test_data, tally, known)
        for row in test:
            check_labels(row, labels)
    return ClassData(
        labels=labels,
        multi_label=config.multi_label,
        parts=dict(zip(PARTS, (train, validation, test), strict=True)),
        tally=tally,
        repeated=tally.kept - len(known),
    )


def _rows(
    config: Config, paths: Sequence[Path], tally: Tally, known: set[tuple[str, str | None]]
) -> list[Labelled]:
    """The rows of some paths whose texts are not `known` yet: a text that is learnt must not be a test.

    With `on_bad_row=reject` those with another label than told are left out and counted.
    """
    reject = tally.reject if config.on_bad_row == "reject" else raise_rejected
    kept: list[Labelled] = []
    read = read_labelled(paths, config.columns, reject=reject, multi_label=config.multi_label)
    for row in announce(read, stage="classify", noun="rows"):
        try:
            check_labels(row, config.labels or row.labels)
        except DataError as error:
            reject(error, dataclasses.asdict(row))
        else:
            tally.keep()
            if (row.text, row.second) not in known:
                known.add((row.text, row.second))
                kept.append(row)
    if not kept:
        why = f"the first: {tally.rejected[0]}" if tally.rejected else "all are in the other files"
        raise DataError(f"none of {tally.rows} rows is a new labelled text; {why}", where=paths[0])
    return kept
