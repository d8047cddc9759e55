"""When an answer's text ends: stop strings, also where one spans the border of tokens.

Text that may turn out to be the beginning of a stop string is held back until that is decided, so what was
streamed never has to be taken back.
"""

from __future__ import annotations

from collections.abc import Sequence

from luban.errors import PromptError


class StopText:
    """Lets text through up to the first stop string; of several, the one that is complete first.

    The result does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises PromptError if a stop string is empty, as every text would end before it."""
        if "" in stops:
            raise PromptError("a stop string is empty", where="stop")
        self.stops = tuple(stops)
        self.stopped = False
        self._held = ""

    def push(self, piece: str) -> str:
        """The text that is now certain to come before any stop string."""
        assert not self.stopped, "text after the stop"
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            _, start = min(found)
            self.stopped, self._held = True, ""
            return text[:start]
        held = self._undecided(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What was held back, now that no more text comes."""
        rest, self._held = self._held, ""
        return rest

    def _undecided(self, text: str) -> int:
        """The length of the longest end of `text` that begins a stop string."""
        longest = min(len(text), max(map(len, self.stops), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.stops):
                return length
        return 0
