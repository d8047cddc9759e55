"""Preferences as the loader takes them: each is one document that holds two answers, one after the other.

    file -> rows (`preference_rows`) -> chat template -> ids and masks -> `loader` -> `pair_batch`

A pair is a document, so packing, the split by rank, the count of steps and the exact resume are the loader's own,
and no pair is ever torn apart. `pair_batch` then keeps the two answers from seeing each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from luban.alignment.preference_rows import Judged, Preference, to_preferences
from luban.data.conversations import to_example
from luban.data.progress import announce
from luban.data.rejected import Tally
from luban.data.row_files import RawRow, read_raw
from luban.data.row_formats import Row
from luban.errors import DataError, TrainingError
from luban.tokenizers.base import Tokenizer

OnBadRow = Literal["stop", "reject"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much room there is, in tokens."""

    row: int
    """A row of the batch, which holds both answers, each after the prompt."""
    window: int
    """What the model reads at once: one answer after its prompt."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A prompt and one answer to it, up to the answer's last token."""

    ids: np.ndarray  # int32
    mask: np.ndarray  # bool: what was answered; never the first token, which follows nothing

    @property
    def prompt_tokens(self) -> int:
        """Tokens before the first one that was answered."""
        return int(self.mask.argmax())


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers, the better one first; or, where `good` is not None, one to judge and a stranger to it."""

    where: str
    first: Answer
    second: Answer
    margin: float = 0.0
    good: bool | None = None


class Pairs:
    """Pairs by number, as the loader takes documents: `pairs[i]` is `(ids, mask)` of both answers."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self.all = list(pairs)
        self.borders = np.array([len(pair.first.ids) for pair in self.all], np.int64)
        """Where in each document the second answer begins, with its prompt."""
        self.margins = np.array([pair.margin for pair in self.all], np.float32)
        self.good = np.array([pair.good is not False for pair in self.all], bool)

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, number: int, /) -> tuple[np.ndarray, np.ndarray]:
        first, second = self.all[number].first, self.all[number].second
        return np.concatenate([first.ids, second.ids]), np.concatenate([first.mask, second.mask])

    @property
    def longest(self) -> int:
        """Tokens of the longest answer with its prompt."""
        return max(len(answer.ids) for pair in self.all for answer in (pair.first, pair.second))

    def split(self, share: float, *, seed: int, most: int | None = None) -> tuple[Pairs, Pairs]:
        """Pairs to learn from and a `share` of the prompts held out, drawn with `seed` from at most `most` pairs.

        The pairs of a prompt stay together: a held-out prompt has not been seen.
        """
        order = np.random.default_rng(seed).permutation(len(self))[:most]
        prompts = list(dict.fromkeys(self._prompt(number) for number in order))
        held = set(prompts[: round(share * len(prompts))])
        learnt, kept = (
            Pairs(self.all[number] for number in order if (self._prompt(number) in held) == aside)
            for aside in (False, True)
        )
        if not len(learnt):
            what = f"{share:.0%} of {len(prompts)} prompts held out leaves none to learn from"
            raise TrainingError(what, where="setting 'validation'")
        return learnt, kept

    def _prompt(self, number: int) -> bytes:
        first = self.all[number].first
        return first.ids[: first.prompt_tokens].tobytes()


def read_pairs(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    limits: Limits,
    *,
    judged: bool = False,
    on_bad_row: OnBadRow = "stop",
) -> tuple[Pairs, Tally]:
    """All preferences in `paths`; with `judged` answers one by one, each pair as a good and a bad one.

    Raises DataError naming file and line for a row that cannot be used, unless `on_bad_row` is `reject`, and if no
    row can; TokenizerError where rows are conversations and there is no chat template.
    """
    found, tally = taken(paths, lambda raw: _pairs_of(raw, tokenizer, limits, judged=judged), on_bad_row)
    pairs = [pair for some in found for pair in some]
    return Pairs(_beside_strangers(pairs, limits) if judged else pairs), tally


def taken(paths: Sequence[Path], take: Callable[[RawRow], T], on_bad_row: OnBadRow) -> tuple[list[T], Tally]:
    """What `take` makes of each row, and what became of those that it raised DataError for.

    Raises that error unless `on_bad_row` is `reject`, and DataError where no row is left.
    """
    tally, kept = Tally(), list[T]()
    rows = (announce(read_raw(path), stage=path.name, noun="rows") for path in paths)
    for raw in itertools.chain.from_iterable(rows):
        try:
            if raw.fault:
                raise raw.fault
            kept.append(take(raw))
        except DataError as error:
            if on_bad_row == "stop":
                raise
            tally.reject(error, raw.value)
        else:
            tally.keep()
    if not kept:
        raise DataError(f"none of {tally.rows} rows can be used; the first: {tally.rejected[0]}")
    return kept, tally


def _pairs_of(raw: RawRow, tokenizer: Tokenizer, limits: Limits, *, judged: bool) -> list[Pair]:
    told = to_preferences(raw.value, where=raw.where)
    made = [pair for one in told for pair in _tokenised(one, tokenizer, judged=judged)]
    for pair in made:
        _check_length(pair, limits)
    return made


def _tokenised(told: Preference | Judged, tokenizer: Tokenizer, *, judged: bool) -> list[Pair]:
    if isinstance(told, Judged):
        if not judged:
            hint = "dpo.loss=kto learns from single answers; all else from prompt, chosen and rejected"
            raise DataError("this row judges one answer, and two are compared", where=told.where, hint=hint)
        answer = to_answer(told.answer, tokenizer)
        return [Pair(where=told.where, first=answer, second=answer, good=told.good)]
    chosen, rejected = to_answer(told.chosen, tokenizer), to_answer(told.rejected, tokenizer)
    if np.array_equal(chosen.ids, rejected.ids):
        raise DataError("chosen and rejected are the same tokens", where=told.where)
    if not judged:
        return [Pair(where=told.where, first=chosen, second=rejected, margin=told.margin)]
    return [
        Pair(where=told.where, first=answer, second=answer, good=good)
        for answer, good in ((chosen, True), (rejected, False))
    ]


def to_answer(row: Row, tokenizer: Tokenizer) -> Answer:
    """A prompt and its answer in tokens; what a template writes after the answer's end token is left out."""
    example = to_example(tokenizer, row)
    mask = example.mask.copy()
    mask[0] = False
    end = int(np.flatnonzero(mask)[-1]) + 1
    return Answer(ids=example.ids[:end], mask=mask[:end])


def _check_length(pair: Pair, limits: Limits) -> None:
    """Raise DataError for a pair that no row of the batch holds, or the model cannot read."""
    prompt = pair.first.prompt_tokens
    single = max(len(answer.ids) for answer in (pair.first, pair.second))
    both = len(pair.first.ids) + len(pair.second.ids)
    if prompt >= min(limits.window, limits.row):
        what = f"the prompt has {prompt} tokens, and there is room for {min(limits.window, limits.row)}"
    elif single > limits.window:
        what = f"prompt and answer have {single} tokens, and the model's window {limits.window}"
    elif both > limits.row:
        what = f"both answers, each after the prompt, have {both} tokens, and a row {limits.row}"
    else:
        return
    hint = f"loop.max_length={both}" if both > limits.row and single <= limits.window else "on_bad_row=reject"
    raise DataError(what, where=pair.where, hint=hint)


def _beside_strangers(pairs: Sequence[Pair], limits: Limits) -> list[Pair]:
    """Each judged answer beside the next row's answer to its own prompt, cut to the room there is.

    What the policy thinks of such strangers tells how far it has moved as a whole: KTO's reference point.

    Source: Ethayarajh et al. 2024 (arXiv:2402.01306).
    """
    following = [*pairs[1:], *pairs[:1]]
    return [
        replace(pair, second=_stranger(pair.first, other.first, limits))
        for pair, other in zip(pairs, following, strict=True)
    ]


def _stranger(answer: Answer, other: Answer, limits: Limits) -> Answer:
    room = min(limits.window, limits.row - len(answer.ids))
    prompt = answer.ids[: answer.prompt_tokens]
    begin = other.prompt_tokens
    ids = np.concatenate([prompt, other.ids[begin:]])[:room]
    mask = np.concatenate([np.zeros(len(prompt), bool), other.mask[begin:]])[:room]
    return Answer(ids=ids, mask=mask)
