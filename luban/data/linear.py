"""A linear model over hashed words and pairs of words: good text against raw text, at the speed of reading it.

A text's features are its words (lower case, digits as 0) and pairs of neighbours, hashed into buckets, each
weighing 1 / sqrt(number of features), so that a longer text is surer. A word is here a run of letters and digits, a
run of one sign as in "...", or an ideograph: a rule that needs no list of exceptions and is told of 64 bytes at
once. The folder holds `weights.npy` (mapped by every process) and `model.json`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luban.data.step import Packed
from luban.errors import DataError
from luban.folder import read_json, write_json
from luban.native import load, pointer

PROBE = "The 7 Wörter -- “鲁班's” house, internationalisation... and_counterrevolution."
"""A text whose features tell whether this version still hashes as the one that trained did."""
SPELLING_BYTES = 1 << 22


@dataclass(frozen=True)
class Features:
    """Texts as counted buckets: those of text i end at `ends[i]`."""

    counted: np.ndarray  # uint32 [features, 2]: bucket, times; sorted within a text
    ends: np.ndarray  # int64 [texts]

    @classmethod
    def of(cls, batches: Iterable[Packed], *, bits: int) -> Features:
        """The features of all texts; 8 bytes for each different one of a text."""
        found = [_count_features(batch, bits) for batch in batches]
        sizes = np.cumsum([0, *(len(counted) for counted, _ in found)])
        ends = [own + size for (_, own), size in zip(found, sizes[:-1], strict=True)]
        empty = np.zeros((0, 2), np.uint32)
        counted = np.concatenate([empty, *(counted for counted, _ in found)])
        return cls(counted, np.concatenate([np.zeros(0, np.int64), *ends]))


@dataclass(frozen=True, kw_only=True)
class LinearModel:
    """Scores texts. Open a folder with `open_model`."""

    weights: np.ndarray  # float32 [2**bits + 1], the last one the bias
    bits: int

    def score(self, texts: Packed) -> np.ndarray:
        """The probability that each text is good (float64 [texts])."""
        scores = np.empty(len(texts.starts))
        _kernel().score(
            *_place(texts), self.bits, pointer(self.weights, np.float32), pointer(scores, np.float64)
        )
        return scores

    def save(self, folder: Path, **facts: Any) -> None:
        """Write `weights.npy`, and `model.json` with some more `facts` for its reader."""
        np.save(folder / "weights.npy", self.weights)
        write_json(folder / "model.json", {"bits": self.bits, "probe": _probe(), **facts})


def train(
    features: Features, labels: np.ndarray, *, bits: int, epochs: int, learning_rate: float, seed: int
) -> tuple[LinearModel, list[float]]:
    """Logistic regression by AdaGrad, text by text in a new order each epoch; also the loss of each epoch in nats.

    Source: Duchi et al. 2011 (AdaGrad, diagonal).
    """
    slots = np.zeros(((1 << bits) + 1, 2), np.float32)  # weight, sum of squared gradients
    shuffle = np.random.default_rng(seed)
    losses = []
    good = labels.astype(np.uint8)
    for _ in range(epochs):
        order = shuffle.permutation(len(good)).astype(np.int64)
        loss = _kernel().fit(
            pointer(features.counted, np.uint32),
            pointer(features.ends, np.int64),
            pointer(order, np.int64),
            pointer(good, np.uint8),
            ctypes.c_int64(len(good)),
            bits,
            ctypes.c_double(learning_rate),
            pointer(slots, np.float32),
        )
        losses.append(float(loss))
    return LinearModel(weights=slots[:, 0].copy(), bits=bits), losses


def telling(model: LinearModel, features: Features, sample: Packed, *, count: int) -> dict[str, list[str]]:
    """The features that move the scores of these texts most, towards good and towards raw, as `sample` spells them.

    Where words share a bucket, the one that `sample` has most often is shown.
    """
    begins = np.concatenate([[0], features.ends[:-1]]).astype(np.int64)
    times = features.counted[:, 1].astype(np.float64)
    totals = np.add.reduceat(np.append(times, 0.0), begins) if len(begins) else np.zeros(0)
    each = np.repeat(1 / np.sqrt(np.maximum(totals, 1)), features.ends - begins)
    moved = np.bincount(features.counted[:, 0], weights=times * each, minlength=1 << model.bits)
    moved *= model.weights[:-1]
    ranked = np.argsort(-moved, kind="stable")
    sides = {"good": ranked[:count], "raw": ranked[::-1][:count]}
    words = _spell(sample, np.concatenate(list(sides.values())), model.bits)
    return {side: [words[bucket] for bucket in buckets if bucket in words] for side, buckets in sides.items()}


def open_model(folder: Path) -> LinearModel:
    """The model in `folder`, mapped; opened once per process.

    Raises DataError if there is none, or if it was made with another word rule than this version's.
    """
    file = folder / "model.json"
    return _opened(folder, file.stat().st_mtime_ns if file.is_file() else 0)


@functools.lru_cache(maxsize=16)
def _opened(folder: Path, changed: int) -> LinearModel:  # noqa: ARG001 - tells versions of the folder apart
    facts = read_json(folder / "model.json")
    try:
        model = LinearModel(weights=np.load(folder / "weights.npy", mmap_mode="r"), bits=facts["bits"])
        whole = model.weights.dtype == np.float32 and model.weights.shape == ((1 << model.bits) + 1,)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"not a whole classifier: {error}", where=folder) from None
    if not whole:
        raise DataError(f"weights.npy does not hold 2^{model.bits} + 1 weights", where=folder)
    if facts.get("probe") != _probe():
        hint = "train it again with `luban data classifier`"
        raise DataError("this version makes other words of a text", where=folder, hint=hint)
    return model


def _count_features(texts: Packed, bits: int) -> tuple[np.ndarray, np.ndarray]:
    counted = np.empty((2 * int(texts.lengths.sum()) + 1, 2), np.uint32)
    ends = np.empty(len(texts.starts), np.int64)
    size = _kernel().text_features(*_place(texts), bits, pointer(counted, np.uint32), pointer(ends, np.int64))
    return counted[:size].copy(), ends


def _spell(texts: Packed, buckets: np.ndarray, bits: int) -> dict[int, str]:
    wanted = np.zeros(1 << bits, np.uint8)
    wanted[buckets] = 1
    out = np.empty(SPELLING_BYTES, np.uint8)
    size = _kernel().spell(
        *_place(texts), bits, pointer(wanted, np.uint8), pointer(out, np.uint8), ctypes.c_int64(len(out))
    )
    lines = out[:size].tobytes().decode("utf-8", "replace").split("\n")
    times = Counter(line for line in lines[:-1])  # the last one may be cut
    words: dict[int, str] = {}
    for line, _ in times.most_common():
        bucket, _, word = line.partition("\t")
        words.setdefault(int(bucket), word)
    return words


def _probe() -> str:
    counted, _ = _count_features(Packed.of([PROBE]), 24)
    return hashlib.sha256(counted.tobytes()).hexdigest()[:16]


def _place(texts: Packed) -> tuple[ctypes.c_void_p | ctypes.c_int64, ...]:
    return (*texts.arguments,)


def _kernel() -> ctypes.CDLL:
    library = load(Path(__file__).with_name("linear.cpp"))
    library.text_features.restype = library.spell.restype = ctypes.c_int64
    library.fit.restype = ctypes.c_double
    return library
