"""What a trained classifier says of texts: probabilities, and lines to read them in.

`final/` holds beside the model how its texts were laid out (`classify.json`), so that new ones are read alike.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from luban.config import build
from luban.errors import ModelError
from luban.evaluation.classes import decided
from luban.folder import read_json, write_json, write_text
from luban.models.classifier import Classifier
from luban.peft.opening import open_model
from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.files import load as load_tokenizer
from luban.tuning.class_rows import Layout, encode_rows
from luban.tuning.labelled import Labelled

READING = "classify.json"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How texts are laid out for a model."""

    max_length: int
    """Tokens of a row."""
    separator: str = "\n"
    """Between two texts of a decoder's row."""


@dataclass(frozen=True)
class Reader:
    """A classifier with all it takes to read texts."""

    model: Classifier
    tokenizer: FileTokenizer
    layout: Layout

    @property
    def labels(self) -> tuple[str, ...]:
        return self.model.config.labels

    @property
    def multi_label(self) -> bool:
        """Whether any number of labels may be right."""
        return self.model.config.problem == "multi_label_classification"

    def probabilities(self, rows: Sequence[Labelled], *, batch: int) -> Float[np.ndarray, "rows labels"]:
        """Each label's probability, texts of like length being read together."""
        ids = encode_rows(self.tokenizer, rows, self.layout).ids
        made = np.zeros((len(rows), len(self.labels)))
        order = sorted(range(len(rows)), key=lambda place: len(ids[place]))
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            scores = self._scores([ids[place] for place in places])
            made[places] = (scores.sigmoid() if self.multi_label else scores.softmax(1)).cpu().numpy()
        return made

    @torch.no_grad()
    def _scores(self, rows: Sequence[np.ndarray]) -> torch.Tensor:
        device = self.model.embedding.weight.device
        lengths = torch.tensor([len(ids) for ids in rows])
        valid = torch.arange(int(lengths.max())) < lengths[:, None]
        tokens = torch.zeros(valid.shape, dtype=torch.long)
        tokens[valid] = torch.from_numpy(np.concatenate(rows)).long()
        segments = None
        if self.layout.encoder and self.model.backbone.config.segments > 1:
            ends = (tokens == self.layout.between[0]) & valid
            segments = ((ends.cumsum(1) - ends.long()).clamp(max=1) * valid).to(device)
        return self.model(tokens.to(device), segments, valid.to(device)).double()


def open_reader(folder: Path, *, device: torch.device) -> Reader:
    """The classifier in `folder`, a model's or an adapter's.

    Raises ModelError if it is none, or the tokenizer does not fit.
    """
    model = open_model(folder, device=device).eval()
    if not isinstance(model, Classifier):
        what = "this model has no head for classes"
        raise ModelError(what, where=folder, hint="the final/ of `luban classify`")
    told = read_json(folder / READING) if (folder / READING).is_file() else {}
    reading = build(Reading, {"max_length": model.config.context, **told}, where=str(folder / READING))
    tokenizer = load_tokenizer(folder)
    layout = Layout.of(tokenizer, model.config, separator=reading.separator, max_tokens=reading.max_length)
    return Reader(model, tokenizer, layout)


def write_reading(folder: Path, reading: Reading) -> None:
    """Note in a model folder how its texts are laid out."""
    write_json(folder / READING, dataclasses.asdict(reading))


def write_predictions(
    path: Path, rows: Sequence[Labelled], probabilities: Float[np.ndarray, "rows labels"], reader: Reader
) -> None:
    """Write a line per row: what the model says, and how sure, beside what is true where that is known."""
    lines = (json.dumps(line, ensure_ascii=False) for line in predictions(rows, probabilities, reader))
    write_text(path, "".join(f"{line}\n" for line in lines))


def predictions(
    rows: Sequence[Labelled], probabilities: Float[np.ndarray, "rows labels"], reader: Reader
) -> list[dict[str, Any]]:
    """`write_predictions`' lines."""
    guesses = decided(probabilities, multi_label=reader.multi_label)
    made = []
    for row, guess, chances in zip(rows, guesses, probabilities, strict=True):
        given = [label for label, on in zip(reader.labels, guess, strict=True) if on]
        line: dict[str, Any] = {"where": row.where, "text": row.text}
        if row.second is not None:
            line["second"] = row.second
        if row.labels:
            line["is"] = list(row.labels) if reader.multi_label else row.labels[0]
        line["label"] = given if reader.multi_label else given[0]
        line["probabilities"] = {
            label: round(float(p), 6) for label, p in zip(reader.labels, chances, strict=True)
        }
        made.append(line)
    return made
