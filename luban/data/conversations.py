"""Conversation rows to training examples: which ids the model sees, and which of them it learns.

    file -> values (`row_files`) -> rows (`row_formats`) -> chat template -> ids and mask -> `loader`

The mask is made here, once, with the ids. Nothing later guesses it back from strings, and what is dropped or
cut is counted with its place and reason (`rejected`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from luban.data.progress import announce
from luban.data.rejected import Reject, Tally, raise_rejected
from luban.data.row_files import read_raw
from luban.data.row_formats import Row, check_columns, to_row
from luban.errors import DataError, TokenizerError
from luban.tokenizers.base import Tokenizer

LossOn = Literal["assistant", "last", "all"]
Overlong = Literal["right", "drop"]
OnBadRow = Literal["reject", "stop"]


class TooLongError(DataError):
    """A row that is left out for its length and not for a fault."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row as the model takes it; `mask` is True where a token is to be learnt."""

    ids: np.ndarray  # int32
    mask: np.ndarray  # bool
    where: str
    truncated: bool = False


class Examples:
    """Examples by number, as the loader takes them: `examples[i]` is `(ids, mask)`.

    Those of file number f stand before `ends[f]` and after those of the files before it.
    """

    def __init__(self, examples: Sequence[Example], tally: Tally, ends: Sequence[int] = ()) -> None:
        self._examples, self.tally = examples, tally
        self.ends = [*ends] or [len(examples)]

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
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "reject",
    max_tokens: int | None = None,
    loss_on: LossOn = "assistant",
    overlong: Overlong = "right",
) -> Examples:
    """All rows of `paths` (files or folders) that can be learnt from; `.tally` keeps the others with their reasons.

    Raises DataError if no row of a path can be learnt from, and with `on_bad_row="stop"` for the first one that
    cannot (rows left out for their length are none of these). Raises TokenizerError if the chat template does not
    let the model learn where an answer ends.
    """
    tally, kept, ends = Tally(), list[Example](), list[int]()
    reject = tally.reject if on_bad_row == "reject" else raise_rejected
    for path in paths:
        rejected = len(tally.rejected)
        for row in announce(
            read_conversations(path, columns=columns, reject=reject), stage=path.name, noun="rows"
        ):
            try:
                made = to_example(tokenizer, row, max_tokens=max_tokens, loss_on=loss_on, overlong=overlong)
            except TooLongError as error:
                tally.reject(error, row.raw)
            except DataError as error:
                reject(error, row.raw)
            else:
                _require_end(tokenizer, row, made)
                kept.append(made)
                tally.keep(truncated=made.truncated)
        if len(kept) == (ends[-1] if ends else 0):
            first, count = tally.rejected[rejected], len(tally.rejected) - rejected
            what = f"none of {count} rows can be learnt from; the first: {first}"
            raise DataError(what, where=path, hint=first.error.hint)
        ends.append(len(kept))
    return Examples(kept, tally, ends)


def read_conversations(
    path: Path, *, columns: Mapping[str, str] | None = None, reject: Reject | None = None
) -> Iterator[Row]:
    """The rows of a file or folder in any format of `row_files`; `columns` are the rows' own keys by ours.

    A malformed row goes to `reject`, or raises DataError naming file and line without one. Raises DataError
    if there is no such file or it has no rows.
    """
    check_columns(columns or {})
    reject = reject or raise_rejected
    for raw in read_raw(path):
        try:
            row = to_row(raw.sound(), where=raw.where, columns=columns)
        except DataError as error:
            reject(error, raw.value)
            continue
        yield row


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
        raise TooLongError(f"{len(ids)} tokens are more than {max_tokens}", where=row.where)
    if truncated:
        ids, mask = ids[:max_tokens].copy(), mask[:max_tokens].copy()
    # A row's first token has no predecessor, so it is never anyone's target.
    if not mask[1:].any():
        kind, cause = (
            (TooLongError, f"within the first {max_tokens} tokens") if truncated else (DataError, "in it")
        )
        raise kind(f"nothing to learn {cause}", where=row.where)
    return Example(ids=ids, mask=mask, where=row.where, truncated=truncated)


def ends_in_stop(tokenizer: Tokenizer, ids: Sequence[int]) -> bool:
    """Whether the ids end with a stop id, spaces behind it aside."""
    for token in reversed(ids):
        if token in tokenizer.stop_ids:
            return True
        if tokenizer.decode([token], skip_special=False).strip():
            return False
    return False


def learnt_runs(example: Example) -> list[list[int]]:
    """The ids of each stretch that is learnt."""
    return [example.ids[start:end].tolist() for start, end in _runs(example.mask)]


def _require_end(tokenizer: Tokenizer, row: Row, example: Example) -> None:
    """Raise TokenizerError if the template's answers are learnt without what ends them."""
    if not row.messages or example.truncated or ends_in_stop(tokenizer, learnt_runs(example)[-1]):
        return
    raise TokenizerError(
        "the chat template leaves the end of an answer out of what is learnt: the model would never stop",
        where=row.where,
        hint="put the end token before {% endgeneration %}; `luban data check` shows what is learnt",
    )


def _conversation(tokenizer: Tokenizer, row: Row) -> tuple[np.ndarray, np.ndarray]:
    if not any(message["role"] == "assistant" for message in row.messages):
        raise DataError("there is no assistant turn to learn", where=row.where)
    last = next(message for message in reversed(row.messages) if message["role"] == "assistant")
    if not last["content"].strip() and not last.get("tool_calls"):
        raise DataError("the answer is empty: there is nothing to learn in it", where=row.where)
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
    if not row.completion.strip():
        raise DataError("the text is empty: there is nothing to learn in it", where=row.where)
    try:
        before, learnt = (tokenizer.encode(text) if text else [] for text in (row.prompt, row.completion))
    except TokenizerError as error:
        raise DataError(error.what, where=row.where, hint=error.hint) from error
    if tokenizer.adds_bos and tokenizer.bos_id is not None:
        before.insert(0, tokenizer.bos_id)
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
