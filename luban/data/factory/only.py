"""A step for documents of some languages; the others pass it by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luban.data.step import Batch, Outcome, Step


@dataclass(frozen=True)
class Only:
    """`step`, for documents whose `language` is one of `languages`."""

    step: Step
    languages: tuple[str, ...]

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        chosen = [
            i for i, document in enumerate(batch.documents) if document.meta.get("language") in self.languages
        ]
        if len(chosen) == len(batch.documents):
            return self.step(batch)
        outcomes: list[Outcome] = [None] * len(batch.documents)
        if chosen:
            judged = self.step(batch.narrowed([batch.documents[i] for i in chosen], chosen))
            for index, outcome in zip(chosen, judged, strict=True):
                outcomes[index] = outcome
        return outcomes
