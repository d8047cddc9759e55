"""One form of one kind of personal data, and the borders that numbers share."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

OPEN = r"(?<! [\w.+/=\#%-] ) (?<! \+\d\ \( ) (?<! \+\d\d\ \( )"
CLOSE = r"(?! [\w/=%] ) (?! [.,:-]\d )"
"""A number that is not inside a longer one, a decimal, a path or an identifier."""
CONTEXT = 64
"""Bytes before a number in which a word may say what it is."""


@dataclass(frozen=True)
class Rule:
    """A pattern on bytes, where to try it, and what its matches must pass."""

    kind: str
    group: int
    """The candidates at which it is tried."""
    source: str
    """Verbose, as `pattern` compiles it."""
    check: Callable[[bytes], bool] | None = None
    before: int = 8
    """How far left of the candidate a match may begin, in bytes."""
    after: int = 8
    """How far right of the candidate it may end."""

    @functools.cached_property
    def pattern(self) -> re.Pattern[bytes]:
        """Compiled at the first candidate: recipes that only name the step need not wait."""
        return re.compile(self.source.encode(), re.VERBOSE)

    def spans(self, content: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        """What matches at the candidate content[start:end], by byte; what only stands near it has its own."""
        part = "value" if "value" in self.pattern.groupindex else 0
        if self.before == 0:
            found = self.pattern.match(content, start, end + self.after)
            matches = [found] if found else []
        else:
            matches = self.pattern.finditer(content, max(0, start - self.before), end + self.after)
        for match in matches:
            if match.start() >= end:
                return
            if match.end() > start and (self.check is None or self.check(match[part])):
                yield match.span(part)
