"""A sign of life on stderr while documents stream by; their number is not known beforehand."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def announce(items: Iterable[T], *, stage: str, noun: str, every_s: float = 5.0) -> Iterator[T]:
    """The same items; every `every_s` seconds one line on stderr says how many went by and how fast."""
    start = last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= every_s:
            last = now
            print(f"{stage}: {count:,} {noun}, {count / (now - start):,.0f}/s", file=sys.stderr, flush=True)
