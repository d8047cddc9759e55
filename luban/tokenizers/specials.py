"""Which special tokens in a rendered conversation are real: the template's are, look-alikes in messages are not.

Before a template runs, every special token spelled out in a message gets a mark in front of it (`disarm`);
afterwards only unmarked ones are split off as ids (`split`) and the marks vanish. The mark is a character that
occurs nowhere in the input, so nobody can forge one.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken


@dataclass(frozen=True)
class Marks:
    """Three characters absent from a conversation: before a disarmed special token, and around an answer."""

    disarmed: str
    opens: str
    closes: str


def fresh_marks(*inputs: Any) -> Marks:
    """Marks that occur in none of `inputs` (strings, or plain values of strings)."""
    used = set(json.dumps(inputs, ensure_ascii=False, default=str))
    noncharacters, private_use = range(0xFDD0, 0xFDF0), range(0xF0000, 0x10FFFE)
    unused = (mark for mark in map(chr, itertools.chain(noncharacters, private_use)) if mark not in used)
    return Marks(*itertools.islice(unused, 3))


class Specials:
    """The special tokens of one tokenizer, found in text as its own library finds them."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        longest_first = sorted(tokens, key=lambda token: -len(token.content))
        names = [token.content for token in longest_first]
        beginnings = {name[:cut] for name in names for cut in range(1, len(name))}
        endings = {name[cut:] for name in names for cut in range(1, len(name))}
        self._names = frozenset(names)
        self._found = [_as_pattern(token) for token in longest_first]
        self._whole = re.compile(f"(?={_any_of(names)})")
        # A piece at a message's border could be completed by what the template or another message puts there.
        self._begun = re.compile(rf"(?={_any_of(beginnings)}\s*\Z)")
        self._ended = re.compile(rf"\A\s*(?={_any_of(endings)})")

    def disarm(self, value: Any, mark: str) -> Any:
        """`value` (nested plain values) with `mark` before all special tokens in its strings."""
        if isinstance(value, str):
            text = self._begun.sub(mark, self._whole.sub(mark, value))
            return self._ended.sub(lambda found: found[0] + mark, text)
        if isinstance(value, Mapping):
            return {self._whole.sub(mark, str(key)): self.disarm(item, mark) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.disarm(item, mark) for item in value]
        return value

    def spans(self, text: str, mark: str) -> Iterator[tuple[int, int]]:
        """Where the special tokens that carry no `mark` stand in `text`, spaces they swallow included."""
        alternatives = "|".join(template.replace("MARK", re.escape(mark)) for template in self._found)
        return (found.span() for found in re.finditer(alternatives or "(?!)", text))

    def split(self, text: str, mark: str) -> Iterator[tuple[str, bool]]:
        """Pieces of `text` in order, marks gone, and whether each is a special token (its spaces stripped)."""
        end = 0
        for start, next_end in self.spans(text, mark):
            yield text[end:start].replace(mark, ""), False
            found = text[start:next_end]
            yield found if found in self._names else found.strip(), True
            end = next_end
        yield text[end:].replace(mark, ""), False


def _as_pattern(token: AddedToken) -> str:
    """Where `token` counts in text; MARK stands for the mark that forbids it."""
    before, after = (r"\s*" if token.lstrip else ""), (r"\s*" if token.rstrip else "")
    edge_before, edge_after = (r"(?<!\w)", r"(?!\w)") if token.single_word else ("", "")
    return f"{before}(?<!MARK){edge_before}{re.escape(token.content)}{edge_after}{after}"


def _any_of(texts: Iterable[str]) -> str:
    alternatives = "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
    return f"(?:{alternatives})" if alternatives else "(?!)"
