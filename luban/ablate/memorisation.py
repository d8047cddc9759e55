"""What a model learns by heart: snippets planted a known number of times, and asked for afterwards.

A probe is a prefix and its continuation, cut out of held-out text. It is verbatim if after the prefix every token
of the continuation is the model's likeliest: then greedy decoding writes it out. Probes planted 0 times are the
control, and the same probes under a model that saw none of them the second one.

Source: Carlini et al. 2023 (arXiv:2202.07646); Chowdhery et al. 2022 (PaLM, section 8). There counts are found in
the corpus, here they are set, so that nothing but the count differs.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from luban.data.document import Document
from luban.data.evaluation_rows import EvaluationRow
from luban.data.factory.rows import batches, dump
from luban.data.step import Packed
from luban.data.steps.decontaminate import GramSet, pack
from luban.errors import DataError
from luban.evaluation.questions import wilson
from luban.folder import atomic_file, write_text
from luban.lm import LM

WORDS = 8
"""A snippet that shares so many words in a row with the training text is no probe: that had planted it already."""
BATCH_CHARS = 1 << 22


class Tokenizer(Protocol):
    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str: ...


@dataclass(frozen=True)
class Probe:
    """A snippet and how often it is planted."""

    prefix: str
    continuation: str
    repeats: int

    @property
    def text(self) -> str:
        return self.prefix + self.continuation


def choose(
    held_out: Sequence[Document],
    training: Path,
    tokenizer: Tokenizer,
    *,
    repeats: Sequence[int],
    per_count: int,
    lengths: tuple[int, int],
) -> list[Probe]:
    """`per_count` probes for each of `repeats`, of `lengths` tokens, none of which `training` shares WORDS with.

    Raises DataError if the held-out text does not have so many.
    """
    from luban.data.sources import read_documents

    found = list(
        dict.fromkeys(pair for document in held_out for pair in cut(document.text, tokenizer, lengths))
    )
    random.Random(0).shuffle(found)
    seen = _seen([prefix + rest for prefix, rest in found], read_documents([training])) if found else set()
    fresh = [pair for number, pair in enumerate(found) if number not in seen]
    wanted = len(repeats) * per_count
    if len(fresh) < wanted:
        what = f"{wanted} snippets of {sum(lengths)} tokens are needed as probes; {len(fresh)} of {len(found)} are new"
        raise DataError(
            f"{what} to the training text", where="held-out text", hint="fewer --probes, or more text"
        )
    return [Probe(*pair, repeats[number % len(repeats)]) for number, pair in enumerate(fresh[:wanted])]


def cut(text: str, tokenizer: Tokenizer, lengths: tuple[int, int]) -> Iterator[tuple[str, str]]:
    """Snippets of `text`, side by side, that cut into the same tokens on their own as within."""
    ids = tokenizer.encode(text)
    size = sum(lengths)
    for begin, end in pairwise(range(0, len(ids) + 1, size)):
        middle = begin + lengths[0]
        prefix, rest = tokenizer.decode(ids[begin:middle]), tokenizer.decode(ids[middle:end])
        alone = prefix.strip() and prefix == prefix.rstrip() and tokenizer.encode(prefix) == ids[begin:middle]
        if alone and tokenizer.encode(prefix + rest) == ids[begin:end]:
            yield prefix, rest


def plant(probes: Sequence[Probe], out: Path) -> None:
    """Write each probe as documents, as often as it says, in shuffled order.

    Windows of a training cut some of them: of 33 tokens with their end in rows of 128 about one in four.
    """
    documents = [
        Document(id=f"probe-{number}#{copy + 1}", text=probe.text, source="probes")
        for number, probe in enumerate(probes)
        for copy in range(probe.repeats)
    ]
    random.Random(0).shuffle(documents)
    with atomic_file(out) as work, work.open("wb") as file:
        file.writelines(map(dump, documents))


def recall(lm: LM, probes: Sequence[Probe]) -> list[dict[str, Any]]:
    """Per probe: whether its continuation is verbatim, and its mean log-probability per token (nats)."""
    scores = lm.score([(probe.prefix, probe.continuation) for probe in probes])
    return [
        {"repeats": probe.repeats, "verbatim": score.greedy, "logp": score.total / len(score.logps)}
        for probe, score in zip(probes, scores, strict=True)
    ]


def tabulate(
    planted: Sequence[Sequence[Mapping[str, Any]]], unplanted: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Rows by count, over all seeds; `planted` and `unplanted` are what `recall` gave for each seed.

    `gain` is how much likelier a token became by planting, in nats, with its standard error over probes.
    """
    rows = []
    for count in sorted({row["repeats"] for row in planted[0]}):
        at = [number for number, row in enumerate(planted[0]) if row["repeats"] == count]
        mine = np.array([[run[i]["logp"] for i in at] for run in planted])
        other = np.array([[run[i]["logp"] for i in at] for run in unplanted])
        hits, asked = sum(run[i]["verbatim"] for run in planted for i in at), mine.size
        gains = (mine - other).mean(axis=0)
        error = gains.std(ddof=1) / len(at) ** 0.5 if len(at) > 1 else float("nan")
        low, high = wilson(hits, asked)
        rows.append(
            {
                "repeats": count,
                "probes": len(at),
                "asked": asked,
                "verbatim": hits,
                "share": hits / asked,
                "low": low,
                "high": high,
                "verbatim_unplanted": sum(run[i]["verbatim"] for run in unplanted for i in at),
                "logp": float(mine.mean()),
                "logp_unplanted": float(other.mean()),
                "gain": float(gains.mean()),
                "gain_error": None if np.isnan(error) else float(error),
            }
        )
    return {"rows": rows, **{f"{name}_rises": _rises(rows, name) for name in ("share", "gain")}}


def _rises(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether the value never falls from one count to the next, and is higher at the last than at the first."""
    values = [row[name] for row in rows]
    return all(a <= b for a, b in pairwise(values)) and values[0] < values[-1]


def _seen(snippets: Sequence[str], training: Iterable[Document]) -> set[int]:
    """The numbers of the snippets that share WORDS words in a row with a training document, or have no 3 words."""
    packed, words = pack([EvaluationRow(id="probes", raw="", texts=tuple(snippets))])
    # The words at both ends may be cut, so that of a short snippet only those between can be found again.
    grams = GramSet.of([(packed, np.clip(words - 2, 0, WORDS))])
    met = np.zeros(len(grams.keys), bool)
    for batch in batches(training, size=BATCH_CHARS):
        met[grams.find(Packed.of([document.text for document in batch]))[:, 1]] = True
    own = grams.find(packed)
    return {*np.flatnonzero(words < 3).tolist(), *own[met[own[:, 1]], 0].tolist()}


def write_probes(probes: Sequence[Probe], out: Path) -> None:
    """The probes as JSON lines, for readers."""
    import json

    lines = [json.dumps(vars(probe) | {"text": probe.text}, ensure_ascii=False) for probe in probes]
    write_text(out, "".join(f"{line}\n" for line in lines))
