"""A batch of texts, and what a step makes of it in short."""

from __future__ import annotations

from collections.abc import Sequence

from luban.data.document import Document
from luban.data.step import Batch, Drop, Step


def batch_of(texts: Sequence[str], **meta: str) -> Batch:
    """Documents numbered from 0, all with the same `meta`."""
    return Batch(
        [Document(id=str(i), text=text, source="test", meta=dict(meta)) for i, text in enumerate(texts)]
    )


def reasons(step: Step, texts: Sequence[str], **meta: str) -> list[str | None]:
    """Why each text is dropped; None if it stays."""
    outcomes = step(batch_of(texts, **meta))
    return [outcome.reason if isinstance(outcome, Drop) else None for outcome in outcomes]
