"""Which document comes next: each source in shuffled epochs, all together by weight.

Nothing is drawn at random but the order within an epoch, which is a function of seed, source and epoch. So
the whole stream is known from a few integers, and a restored one goes on exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Mixer:
    """Draws units (documents or windows) so that the tokens of each source keep to its weight.

    `sizes[s][u]` is the tokens of unit u of source s. With `epochs` each unit comes exactly so often, and a
    source that is through leaves the others to go on; with None the draws never end.
    """

    def __init__(
        self, sizes: Sequence[np.ndarray], weights: Sequence[float], *, seed: int, epochs: int | None
    ) -> None:
        self._sizes, self._seed, self._limit = sizes, seed, epochs
        self._shares = [weight / sum(weights) for weight in weights]
        self.epochs = [0] * len(sizes)
        """Finished epochs of each source."""
        self._places = [0] * len(sizes)
        self._drawn = [0] * len(sizes)
        self._orders: list[np.ndarray | None] = [None] * len(sizes)

    def draw(self) -> tuple[int, int] | None:
        """Source and unit that come next: of the source whose tokens lag most behind its share."""
        source = self._most_behind()
        if source is None:
            return None
        unit = int(self._order(source)[self._places[source]])
        self._drawn[source] += int(self._sizes[source][unit])
        self._places[source] += 1
        if self._places[source] == len(self._sizes[source]):
            self.epochs[source] += 1
            self._places[source], self._orders[source] = 0, None
        return source, unit

    def seen(self, source: int) -> float:
        """Epochs of `source` drawn so far, the unfinished one as a fraction."""
        return self.epochs[source] + self._places[source] / len(self._sizes[source])

    def state(self) -> dict[str, Any]:
        """JSON-able; `restore` goes on from here."""
        return {"epochs": [*self.epochs], "places": [*self._places], "drawn": [*self._drawn]}

    def restore(self, state: dict[str, Any]) -> None:
        self.epochs, self._places, self._drawn = [*state["epochs"]], [*state["places"]], [*state["drawn"]]
        self._orders = [None] * len(self._sizes)

    def _most_behind(self) -> int | None:
        total = sum(self._drawn)
        best, largest = None, -float("inf")
        for source, share in enumerate(self._shares):
            deficit = share * total - self._drawn[source]
            if deficit > largest and (self._limit is None or self.epochs[source] < self._limit):
                best, largest = source, deficit
        return best

    def _order(self, source: int) -> np.ndarray:
        order = self._orders[source]
        if order is None:
            generator = np.random.default_rng([self._seed, source, self.epochs[source]])
            order = generator.permutation(len(self._sizes[source]))
            self._orders[source] = order
        return order
