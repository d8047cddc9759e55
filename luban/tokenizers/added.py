"""New tokens behind an existing vocabulary, so that every old id keeps its meaning."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import tokenizers
from tokenizers import AddedToken

from luban.errors import TokenizerError
from luban.tokenizers.files import FileTokenizer

SPACED_WORD = re.compile(r"\w(?:.*\w)?", re.DOTALL)
UNSPACED = re.compile(r"[぀-ヿ㐀-鿿가-힯豈-﫿฀-๿𠀀-𳑯]")
"""Scripts that write no spaces between words, or join endings to them."""


@dataclass(frozen=True)
class Extension:
    """What became of the wanted tokens."""

    tokenizer: FileTokenizer
    added: dict[str, int]
    """New tokens and their ids."""
    skipped: dict[str, int]
    """Why others were not added, and how many: `known` (one token already), `repeated`, `empty`,
    `undecodable` (the decoder would not give it back)."""
    before: dict[str, list[int]]
    """Old ids of each new token's text."""


def with_tokens(tokenizer: FileTokenizer, wanted: Iterable[str], *, special: bool = False) -> Extension:
    """`tokenizer` with new tokens behind its last id; `tokenizer` itself stays as it is.

    A token that is a word of a spaced script matches whole words only: `cat` leaves `concatenate` alone. A space
    in front belongs to the token (` cat`). Special ones stand for no text: only templates write them.
    """
    new, skipped = _new_ones(tokenizer, wanted, special)
    made = _with(tokenizer, new, special)
    ids = _ids(made, new)
    # The decoder of byte-level vocabularies takes signs like é for bytes, also where they are plain text.
    before = tokenizer.encode("a")
    lost = [t for t, number in ids.items() if not special and not made.decode([*before, number]).endswith(t)]
    if lost:
        skipped["undecodable"] = len(lost)
        new = [text for text in new if text not in lost]
        made = _with(tokenizer, new, special)
        ids = _ids(made, new)
    if clashing := [text for text, number in ids.items() if number < tokenizer.vocab_size]:
        raise TokenizerError(
            f"{clashing[0]!r} would take id {ids[clashing[0]]} of {tokenizer.vocab_size}: the ids have gaps"
        )
    return Extension(made, ids, dict(skipped), {text: tokenizer.encode(text) for text in new})


def is_spaced_word(text: str) -> bool:
    """Whether `text` begins and ends with letters or digits of a script that parts words by spaces."""
    return bool(SPACED_WORD.fullmatch(text)) and not (UNSPACED.match(text[0]) or UNSPACED.match(text[-1]))


def _new_ones(
    tokenizer: FileTokenizer, wanted: Iterable[str], special: bool
) -> tuple[list[str], Counter[str]]:
    known = {token["content"] for token in json.loads(tokenizer.to_json())["added_tokens"]}
    new: dict[str, None] = {}
    skipped: Counter[str] = Counter()
    for text in wanted:
        if not text.strip():
            skipped["empty"] += 1
        elif text in new:
            skipped["repeated"] += 1
        elif text in known or (not special and len(tokenizer.encode(text)) == 1):
            skipped["known"] += 1
        else:
            new[text] = None
    return list(new), skipped


def _with(tokenizer: FileTokenizer, texts: Sequence[str], special: bool) -> FileTokenizer:
    backend = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    tokens = [
        AddedToken(text, special=special, normalized=False, single_word=not special and is_spaced_word(text))
        for text in texts
    ]
    (backend.add_special_tokens if special else backend.add_tokens)(tokens)
    return tokenizer.with_backend(backend)


def _ids(tokenizer: FileTokenizer, texts: Sequence[str]) -> dict[str, int]:
    added = {token["content"]: token["id"] for token in json.loads(tokenizer.to_json())["added_tokens"]}
    return {text: added[text] for text in texts}
