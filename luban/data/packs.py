"""Documents' texts in packs of a few megabytes, for stages that read a corpus through a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from luban.data.step import Packed

PACK_CHARS = 1 << 22


def packs(texts: Iterable[str], *, chars: int = PACK_CHARS) -> Iterator[Packed]:
    """The texts in order, packed as soon as `chars` characters have come together."""
    waiting: list[str] = []
    size = 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size >= chars:
            yield Packed.of(waiting)
            waiting, size = [], 0
    if waiting:
        yield Packed.of(waiting)
