"""A corpus step over documents as the factory runs it: cut into parts and batches, arrays in files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from luban.data.document import Document
from luban.data.step import Batch, CorpusStep, Outcome


def documents(*texts: str, **meta: Sequence[Any]) -> list[Document]:
    """Documents of these texts; `url=[...]` gives each its own value, None leaves it out."""
    rows = [
        {key: values[i] for key, values in meta.items() if values[i] is not None} for i in range(len(texts))
    ]
    return [Document(id=str(i), text=text, source="test", meta=rows[i]) for i, text in enumerate(texts)]


def decide(
    step: CorpusStep,
    corpus: Sequence[Document],
    *,
    cuts: Sequence[int] = (),
    batch: int = 7,
    memory: int = 1 << 24,
) -> list[np.ndarray]:
    """The decisions of each part; `cuts` are the indices where one part ends and the next begins."""
    with tempfile.TemporaryDirectory() as name:
        parts, decisions = [], []
        for number, (start, stop) in enumerate(pairwise([0, *cuts, len(corpus)])):
            collected = [step.collect(each) for each in _batches(corpus[start:stop], batch)]
            files = {key: Path(name, f"{number}-{key}.npy") for key in collected[0]}
            for key, file in files.items():
                np.save(file, np.concatenate([arrays[key] for arrays in collected]))
            parts.append(files)
            decisions.append(Path(name, f"{number}.npy"))
        step.resolve(parts, decisions, memory=memory)
        before = {path for part in parts for path in part.values()} | set(decisions)
        assert set(Path(name).iterdir()) == before, "working files were left behind"
        return [np.load(path) for path in decisions]


def run(
    step: CorpusStep,
    corpus: Sequence[Document],
    *,
    cuts: Sequence[int] = (),
    batch: int = 7,
    memory: int = 1 << 24,
) -> list[Outcome]:
    """One outcome per document of the corpus."""
    decided = decide(step, corpus, cuts=cuts, batch=batch, memory=memory)
    outcomes: list[Outcome] = []
    for (start, stop), decisions in zip(pairwise([0, *cuts, len(corpus)]), decided, strict=True):
        for each in _batches(corpus[start:stop], batch):
            outcomes += step.apply(each, decisions)
    return outcomes


def _batches(corpus: Sequence[Document], size: int) -> list[Batch]:
    return [Batch(corpus[at : at + size], at) for at in range(0, max(1, len(corpus)), size)]
