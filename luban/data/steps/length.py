"""Texts too short to say anything, or too long to be one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luban.data.step import Batch, Outcome, drop_where


@dataclass(frozen=True, kw_only=True)
class Length:
    """Drop texts of fewer or more characters, white space and signs not counted.

    Source: SlimPajama (Soboleva et al. 2023) drops what has fewer than 200 characters then.
    """

    min_characters: int = 200
    max_characters: int = 10_000_000

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        solid = batch.statistics.solid
        return drop_where(
            len(solid),
            [
                ("short", solid < self.min_characters, solid),
                ("long", solid > self.max_characters, solid),
            ],
        )
