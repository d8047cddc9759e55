"""What the scheduler knows of one answer: how long it is, how much of it is computed, where its keys lie.

No tensors and no text: the engine's answers and the simulator's made-up ones are the same `Job`s, so both are
scheduled by the same code. A job has `known` tokens, of which `computed` have their keys in pages; what is
pending in between is one token while it decodes and many while it reads its prompt. That is the only difference.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

GONE = -1
"""In a table of pages: one that lay wholly behind the model's window and was given back."""


@dataclass(eq=False, kw_only=True)
class Job:
    """One answer on its way. Compared by identity, as two may ask for the same."""

    id: str
    arrived: float
    """Seconds on the caller's clock."""
    prompt: int
    """Tokens of the prompt."""
    budget: int
    """Most tokens the answer may get."""
    expected: int = 0
    """Tokens the answer will get, for policies that trust a hint; 0 takes the budget."""
    tokens: list[int] = field(default_factory=list)
    """The ids of prompt and answer; empty in a simulation, where nothing is shared."""
    known: int = 0
    """How many tokens there are to compute: prompt and answer so far."""
    computed: int = 0
    """How many of them have been through the model, their keys in `pages` or on the host."""
    pages: list[int] = field(default_factory=list)
    """The table: page i holds the keys of tokens i * page_size and following; `GONE` where no longer needed."""
    gone: int = 0
    """How many pages at the front of the table are `GONE`."""
    on_host: int = 0
    """Pages that wait in the host's memory; then the table is empty."""
    keys: list[bytes] = field(default_factory=list)
    """Content hashes of the whole pages so far, for sharing."""
    unread: bool = False
    """Whether its prompt's states are still needed, so that what the pool has of it is computed all the same."""
    published: int = 0
    """How many pages of the table others were told of."""

    def __post_init__(self) -> None:
        self.known = self.known or self.prompt
        self.expected = self.expected or self.budget

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be drawn."""
        return self.known - self.computed

    @property
    def answered(self) -> int:
        """Tokens of the answer so far."""
        return self.known - self.prompt

    @property
    def left(self) -> int:
        """Tokens of the answer that are expected to come."""
        return max(1, self.expected - self.answered)

    @property
    def holds(self) -> int:
        """Entries of the table that are pages, its own or shared ones."""
        return len(self.pages) - self.gone if self.pages else 0

    def hash_pages(self, page_size: int) -> list[bytes]:
        """The content hash of each whole page of `tokens`; what was hashed before is kept."""
        for first in range(len(self.keys) * page_size, len(self.tokens) - page_size + 1, page_size):
            before = self.keys[-1] if self.keys else b""
            self.keys.append(page_key(before, self.tokens[first : first + page_size]))
        return self.keys


def page_key(before: bytes, tokens: Sequence[int]) -> bytes:
    """A name for a page's tokens and all before them, so long that two contents never share one."""
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()
