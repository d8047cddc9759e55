"""Conversation rows to training examples: which ids the model sees, and which of them it learns.

    file -> rows (`row_formats`) -> chat template -> ids and mask -> `loader`

The mask is made here, once, with the ids. Nothing later guesses it back from strings, and what is dropped or
cut is counted with its place and reason.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from luban.data.progress import announce
from luban.data.row_formats import Row, to_row
from luban.data.sources import open_text
from luban.errors import DataError, TokenizerError
from luban.tokenizers.base import Tokenizer

LossOn = Literal["assistant", "last", "all"]
Overlong = Literal["right", "drop"]
Reject = Callable[[DataError], None]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row as the model takes it; `mask` is True where a token is to be learnt."""

    ids: np.ndarray  # int32
    mask: np.ndarray  # bool
    where: str
    truncated: bool = False


@dataclass(kw_only=True)
class Tally:
    """What became of the rows: `rows = kept + len(rejected)`; truncated ones are kept."""

    rows: int = 0
    kept: int = 0
    truncated: int = 0
    rejected: list[str] = dataclasses.field(default_factory=list)
    """One message each: file:line and the reason."""

    def reject(self, error: DataError) -> None:
        self.rows += 1
        self.rejected.append(str(error).partition("\n")[0])

    def keep(self, example: Example) -> None:
        self.rows += 1
        self.kept += 1
        self.truncated += example.truncated


class Examples:
    """Examples by number, as the loader takes them: `examples[i]` is `(ids, mask)`."""

    def __init__(self, examples: Sequence[Example], tally: Tally) -> None:
        self._examples, self.tally = examples, tally

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, number: int, /) -> tuple[np.ndarray, np.ndarray]:
        example = self._examples[number]
        return example.ids, example.mask

    def where(self, number: int) -> str:
        """File and line of the row behind an example."""
        return self._examples[number].where


def read_examples(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    *,
    max_tokens: int | None = None,
    loss_on: LossOn = "assistant",
    overlong: Overlong = "right",
) -> Examples:
    """All rows of `paths` that can be learnt from; `.tally` says what became of the others.

    Raises DataError for a malformed row, and if no row can be learnt from.
    """
    tally, kept = Tally(), list[Example]()
    for path in paths:
        for row in announce(read_conversations(path), stage=path.name, noun="rows"):
            try:
                kept.append(
                    to_example(tokenizer, row, max_tokens=max_tokens, loss_on=loss_on, overlong=overlong)
                )
            except DataError as error:
                tally.reject(error)
            else:
                tally.keep(kept[-1])
    if not kept:
        raise DataError(f"none of {tally.rows} rows can be learnt from; the first: {tally.rejected[0]}")
    return Examples(kept, tally)


def read_conversations(path: Path, *, reject: Reject | None = None) -> Iterator[Row]:
    """The rows of a JSONL file or of a `.json` list, either also `.gz` or `.zst`.

    A malformed row goes to `reject`, or raises DataError naming file and line without one. Raises DataError
    if there is no such file or it has no rows.
    """
    empty = True
    for where, raw in _raw_rows(path):
        empty = False
        try:
            row = to_row(_parsed(raw, where) if isinstance(raw, str) else raw, where=where)
        except DataError as error:
            if reject is None:
                raise
            reject(error)
            continue
        yield row
    if empty:
        raise DataError("there are no rows in this file", where=path)


def to_example(
    tokenizer: Tokenizer,
    row: Row,
    *,
    max_tokens: int | None = None,
    loss_on: LossOn = "assistant",
    overlong: Overlong = "right",
) -> Example:
    """The row's ids, and which of them are learnt: every answer, the last one, or all tokens.

    The token that ends an answer is learnt with it. Plain text gets `eos_id` at its end, and `bos_id` at its
    beginning only where the vocabulary's models expect it. A row above `max_tokens` keeps its beginning
    (`overlong="right"`) or is refused (`"drop"`). Raises DataError naming the row if nothing in it can be
    learnt, TokenizerError if the tokenizer has no chat template.
    """
    ids, mask = _conversation(tokenizer, row) if row.messages else _plain(tokenizer, row)
    if loss_on == "last":
        mask = _last_run(mask)
    elif loss_on == "all":
        mask = np.ones_like(mask)
    truncated = max_tokens is not None and len(ids) > max_tokens
    if truncated and overlong == "drop":
        raise DataError(f"{len(ids)} tokens are more than {max_tokens}", where=row.where)
    if truncated:
        ids, mask = ids[:max_tokens].copy(), mask[:max_tokens].copy()
    # A row's first token has no predecessor, so it is never anyone's target.
    if not mask[1:].any():
        cause = f"within the first {max_tokens} tokens" if truncated else "in it"
        raise DataError(f"nothing to learn {cause}", where=row.where)
    return Example(ids=ids, mask=mask, where=row.where, truncated=truncated)


def _conversation(tokenizer: Tokenizer, row: Row) -> tuple[np.ndarray, np.ndarray]:
    if not any(message["role"] == "assistant" for message in row.messages):
        raise DataError("there is no assistant turn to learn", where=row.where)
    try:
        rendered = tokenizer.render(row.messages, tools=row.tools, needs_mask=True)
    except TokenizerError as error:
        if tokenizer.chat_template is None:
            raise
        raise DataError(error.what, where=row.where, hint=error.hint) from error
    ids, mask = np.array(rendered[0], dtype=np.int32), np.array(rendered[1], dtype=bool)
    for start, end in _runs(mask)[: row.given_answers]:
        mask[start:end] = False
    return ids, mask


def _plain(tokenizer: Tokenizer, row: Row) -> tuple[np.ndarray, np.ndarray]:
    before = tokenizer.encode(row.prompt) if row.prompt else []
    if tokenizer.adds_bos and tokenizer.bos_id is not None:
        before.insert(0, tokenizer.bos_id)
    learnt = tokenizer.encode(row.completion)
    if tokenizer.eos_id is not None:
        learnt.append(tokenizer.eos_id)
    ids = np.array([*before, *learnt], dtype=np.int32)
    return ids, np.arange(len(ids)) >= len(before)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of each stretch of True."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _last_run(mask: np.ndarray) -> np.ndarray:
    last = np.zeros_like(mask)
    for start, end in _runs(mask)[-1:]:
        last[start:end] = True
    return last


def _raw_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each row stands, and its JSON text (of a `.json` list: its value)."""
    with open_text(path) as file:
        is_list = ".json" in path.suffixes and file.read(64).lstrip().startswith("[")
    with open_text(path) as file:
        if is_list:
            values = _parsed(file.read(), str(path))
            yield from ((f"{path} row {number}", value) for number, value in enumerate(values, 1))
            return
        yield from ((f"{path}:{number}", line) for number, line in enumerate(file, 1) if line.strip())


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f" (line {error.lineno})" if error.lineno > 1 else ""
        raise DataError(f"not valid JSON: {error.msg} at column {error.colno}{line}", where=where) from None
