"""n-gram models of tokens as ARPA files, the form that KenLM and SRILM read: tokens are words, texts are sentences."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from luban.errors import DataError, ModelError
from luban.models.ngram import NgramConfig, NgramLM
from luban.ngram import arpa
from luban.ngram.backoff import table_of
from luban.ngram.kneser_ney import IMPOSSIBLE, Grams
from luban.ngram.model import spelled_keys

START, END, UNKNOWN = "<s>", "</s>", "<unk>"


def write_arpa(model: NgramLM, path: Path, words: Sequence[str] | None = None) -> None:
    """Write `model` to `path`, each token as its word of `words`, or (None) as its number.

    What stands before a text is `<s>`, its end `</s>`; where no token is called `<unk>`, that is impossible. Raises
    ModelError for add-k, which has no back-off form, DataError for words that a file could not tell apart.
    """
    if model.config.skips:
        raise ModelError("add-k gives what it spares to all tokens alike; an ARPA file cannot say that")
    spelled = _spelled(model.config, words)
    grams = model.table().grams()
    if UNKNOWN not in spelled:
        spelled.append(UNKNOWN)
        first = grams[0]
        ids = np.append(first.ids, np.uint32(len(first.ids))).astype(np.uint32)[:, None]
        logp, backoff = np.append(first.logp, np.float32(IMPOSSIBLE)), np.append(first.backoff, np.float32(0))
        grams[0] = Grams(ids, logp, backoff)
    letters, ends = _joined(spelled)
    arpa.write_arpa(path, grams, letters, ends)


def read_arpa(path: Path, config: NgramConfig, words: Sequence[str] | None = None) -> NgramLM:
    """The model in the file at `path`, over the tokens of `config`; `words` as for `write_arpa`.

    Tokens that the file leaves out are impossible; its `<unk>` is left out where no token is called so. Raises
    DataError for a file that is wrong, and for a word in it that is no token.
    """
    letters, ends = _joined(_spelled(config, words))
    starts = np.append(0, ends[:-1])
    keys = spelled_keys(letters, starts, ends - starts)
    buffer, orders = arpa.read_arpa(path)
    grams = [_grams(buffer, order, n, keys, path) for n, order in enumerate(orders, 1)]
    try:
        table = table_of(grams, config.vocab, symbols=np.arange(len(keys)))
    except DataError as error:
        raise DataError(error.what, where=path, hint=error.hint) from None
    return NgramLM.of(dataclasses.replace(config, estimator="other", order=table.order, sizes=()), table)


def _grams(buffer: np.ndarray, order: arpa.ArpaOrder, n: int, keys: np.ndarray, path: Path) -> Grams:
    """The n-grams of one order by their symbols, each of which has its key in `keys`."""
    wanted = spelled_keys(buffer, order.starts, order.lengths)
    rank = np.argsort(keys)
    ids = rank[np.searchsorted(keys[rank], wanted).clip(max=len(keys) - 1)]
    missing = keys[ids] != wanted
    if n == 1:
        missing &= wanted != _key(UNKNOWN)
    if missing.any():
        at = missing.argmax()
        word = buffer[order.starts[at] :][: order.lengths[at]].tobytes().decode(errors="replace")
        raise DataError(
            f"the word '{word}' is no token", where=path, hint="words are tokens, or their numbers"
        )
    kept = (keys[ids] == wanted).reshape(-1, n).all(1)
    return Grams(ids.reshape(-1, n).astype(np.uint32)[kept], order.logp[kept], order.backoff[kept])


def _spelled(config: NgramConfig, words: Sequence[str] | None) -> list[str]:
    """The word of each symbol: `words`, but for a text's end and, as the last, its start."""
    spelled = [str(number) for number in range(config.vocab)] if words is None else list(words)
    if len(spelled) != config.vocab:
        raise DataError(f"{len(spelled)} words for a model of {config.vocab} tokens")
    spelled = [*spelled[: config.eos_id], END, *spelled[config.eos_id + 1 :], START]
    for word, count in Counter(spelled).items():
        if count > 1 or not word or len(word.split()) > 1 or word != word.strip():
            what = f"{count} tokens are called" if count > 1 else "a token is called"
            raise DataError(
                f"{what} {word!r}: no ARPA file can hold that", hint="write tokens by their numbers"
            )
    return spelled


def _joined(spelled: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The words end to end (uint8), and where each one ends."""
    words = [word.encode() for word in spelled]
    return np.frombuffer(b"".join(words), np.uint8), np.cumsum([len(word) for word in words])


def _key(word: str) -> np.ndarray:
    letters, ends = _joined([word])
    return spelled_keys(letters, np.zeros(1, np.int64), ends)
