"""Where things stand in the card's pictures, in percent of their width and height."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luban.data.card.facts import Amount, Facts


@dataclass(frozen=True)
class Box:
    """A rectangle with what it stands for."""

    label: str
    value: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Flow:
    """One line of the keep-rate figure; shares are of what came in."""

    name: str
    amount: Amount
    kept: float
    lost: float
    bytes_kept: float
    bytes_lost: float
    of_previous: float


def flow(facts: Facts) -> list[Flow]:
    """What was left after every stage (RefinedWeb's figure 2 as bars)."""
    before = facts.before
    if before is None or not before.documents:
        return []
    lines, previous = [], before
    for name, amount in (("input", before), *((stage.name, stage.after) for stage in facts.stages)):
        lines.append(
            Flow(
                name,
                amount,
                kept=amount.documents / before.documents,
                lost=max(0, previous.documents - amount.documents) / before.documents,
                bytes_kept=amount.bytes / max(before.bytes, 1),
                bytes_lost=max(0, previous.bytes - amount.bytes) / max(before.bytes, 1),
                of_previous=amount.documents / max(previous.documents, 1),
            )
        )
        previous = amount
    return lines


def histogram(counts: Mapping[int, int], *, doubling: bool) -> list[Box]:
    """Columns from the lowest to the highest bucket, empty ones between them too; heights against the highest."""
    if not counts:
        return []
    buckets = _doubling(min(counts), max(counts)) if doubling else list(range(min(counts), max(counts) + 1))
    highest, width = max(counts.values()), 100 / len(buckets)
    heights = [100 * counts.get(bucket, 0) / max(highest, 1) for bucket in buckets]
    return [
        Box(str(bucket), counts.get(bucket, 0), place * width, 100 - height, width, height)
        for place, (bucket, height) in enumerate(zip(buckets, heights, strict=True))
    ]


def _doubling(low: int, high: int) -> list[int]:
    buckets = [low]
    while buckets[-1] < high:
        buckets.append(max(1, 2 * buckets[-1]))
    return buckets


def treemap(values: Mapping[str, int], *, aspect: float, most: int = 40) -> list[Box]:
    """Rectangles of areas in proportion to `values`, near to squares on a picture `aspect` times as wide as high.

    The smallest beyond `most` are joined as "others". Source: Bruls, Huizing and van Wijk 2000, squarified treemaps.
    """
    ranked = sorted(((name, value) for name, value in values.items() if value > 0), key=lambda item: -item[1])
    rest = ranked[most - 1 :]
    if len(rest) > 1:
        ranked[most - 1 :] = [(f"{len(rest)} others", sum(value for _, value in rest))]
        ranked.sort(key=lambda item: -item[1])
    total = sum(value for _, value in ranked)
    scale = aspect / total if total else 0  # the picture is `aspect` wide and 1 high
    boxes: list[Box] = []
    x = y = 0.0
    width, height = aspect, 1.0
    while ranked:
        side = min(width, height)
        row = _row([value * scale for _, value in ranked], side)
        thick = sum(value * scale for _, value in ranked[:row]) / side
        along = 0.0
        for name, value in ranked[:row]:
            long = value * scale / thick
            place = (x, y + along, thick, long) if height <= width else (x + along, y, long, thick)
            boxes.append(_percent(name, value, place, aspect))
            along += long
        # What is left follows from the values: by subtraction a sliver would lose all its digits.
        across = height <= width
        x, y = (x + thick, y) if across else (x, y + thick)
        del ranked[:row]
        left = sum(value * scale for _, value in ranked)
        width, height = (left / height, height) if across else (width, left / width)
    return boxes


def _percent(name: str, value: int, place: tuple[float, float, float, float], aspect: float) -> Box:
    x, y, width, height = place
    return Box(name, value, 100 * x / aspect, 100 * y, 100 * width / aspect, 100 * height)


def _row(areas: Sequence[float], side: float) -> int:
    """How many areas to lay along `side` before the worst ratio of sides gets worse again."""
    best = worst_ratio(areas[:1], side)
    for count in range(2, len(areas) + 1):
        worst = worst_ratio(areas[:count], side)
        if worst > best:
            return count - 1
        best = worst
    return len(areas)


def worst_ratio(areas: Sequence[float], side: float) -> float:
    """The longest side over the shortest among areas laid along `side`."""
    total = sum(areas)
    return max(side * side * max(areas) / total**2, total**2 / (side * side * min(areas)))
