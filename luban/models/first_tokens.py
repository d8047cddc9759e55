"""A few tokens to compare two models on: the beginning of a text, or random ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from luban.errors import DataError


def first_tokens(
    text: Path | None, encode: Callable[[str], list[int]], *, count: int, vocab: int, least: int = 1
) -> Int[Tensor, "1 seq"]:
    """The first `count` tokens of the file `text`; without one, random ones, always the same.

    Raises DataError for a file that is not there, is not UTF-8, or has fewer than `least` tokens.
    """
    if text is None:
        return torch.randint(vocab, (1, count), generator=torch.Generator().manual_seed(0))
    try:
        ids = encode(text.read_text(encoding="utf-8"))[:count]
    except FileNotFoundError:
        raise DataError("no such file", where=text) from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.reason} at byte {error.start}", where=text) from None
    if not ids:
        raise DataError("the text is empty", where=text)
    if len(ids) < least:
        raise DataError(f"the text has {len(ids)} tokens of at least {least}", where=text)
    return torch.tensor([ids])
