"""C4's rules: lines that are no sentences go, and pages with too little left or with signs of code or filler.

Source: Raffel et al. 2020, section 2.2 (arXiv:1910.10683), and the code published with it for what the paper leaves
open: long words, policy lines, citation marks. The list of bad words is a step of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int64
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luban.data.step import Batch, Drop, Edit, Outcome
from luban.native import load, pointer

_REMOVED = ("c4_long_word", "c4_no_end_of_sentence", "c4_few_words", "c4_javascript", "c4_policy")
_VERDICTS = {1: "c4_lorem_ipsum", 2: "c4_curly_bracket"}


@dataclass(frozen=True, kw_only=True)
class C4:
    """Remove lines that do not end a sentence, are short, or speak of JavaScript or cookies; drop what is left small.

    Lines are stripped and Wikipedia's citation marks removed. Each removed line counts under its reason.
    """

    min_sentences: int = 3
    """In the lines that stay."""
    min_words_per_line: int = 5
    """Between white space."""
    max_word_characters: int = 1000

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        packed, count = batch.packed, len(batch.documents)
        verdicts, sentences, lengths = np.zeros((3, count), np.int64)
        removed = np.zeros((count, len(_REMOVED)), np.int64)
        text = np.empty_like(packed.buffer)
        load(Path(__file__).with_name("c4.cpp")).luban_c4(
            *packed.arguments,
            c_int64(self.min_words_per_line),
            c_int64(self.max_word_characters),
            pointer(verdicts, np.int64),
            pointer(sentences, np.int64),
            pointer(removed, np.int64),
            pointer(text, np.uint8),
            pointer(lengths, np.int64),
        )
        outcomes: list[Outcome] = []
        for index, document in enumerate(batch.documents):
            if verdicts[index]:
                outcomes.append(Drop(_VERDICTS[int(verdicts[index])]))
            elif sentences[index] < self.min_sentences:
                outcomes.append(Drop("c4_few_sentences", float(sentences[index])))
            else:
                start = packed.starts[index]
                kept = text[start : start + lengths[index]].tobytes().decode("utf-8")
                changes = {name: int(n) for name, n in zip(_REMOVED, removed[index], strict=True) if n}
                outcomes.append(Edit(kept, changes=changes) if kept != document.text else None)
        return outcomes
