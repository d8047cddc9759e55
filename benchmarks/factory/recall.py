"""Recall of MinHash beyond the luck of one draw: planted pairs under many draws of hash functions, beside datatrove.

For each pair and each draw: do the two texts agree in one of 14 bands of 8 values? No grouping, no thresholds. Each
side takes words in its own way (datatrove parts them at every sign and makes all numbers equal), so the same pair is
not as alike to both; theory is given for each side's own shingles.
Last, how many single decisions datatrove keeps equal to its own under another seed: no other program can share more.
"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from factory import corpus
from factory.chain import FILES, PEER, kept_by_peer, split
from factory.command import HERE
from factory.measure import command, save, table
from luban.data.dedup.lsh import meeting_chance
from luban.data.dedup.planted import EDGES, similarities
from luban.data.dedup.shingles import shingles
from luban.data.dedup.signatures import band_keys, signatures
from luban.data.step import Packed

NGRAM, BANDS, ROWS = 5, 14, 8
MOST_PAIRS = 250
"""Of one bin."""
PEER_RECALL = HERE / "peer_recall.py"


@dataclass(frozen=True)
class Side:
    """What one program found: whether each pair met under each draw, and how alike it takes the two for."""

    met: np.ndarray  # bool [draws, pairs]
    jaccard: np.ndarray  # [pairs]


def run(options: Namespace) -> None:
    pairs = _pairs(options)
    sides = {"luban": _luban(pairs, options.draws)}
    if options.peer_python:
        sides["datatrove"] = _datatrove(pairs, options)
    plain = np.array([_plain_jaccard(*pair) for pair in pairs])
    found: dict[str, Any] = {
        "corpus": {"kind": options.kind, "megabytes": options.megabytes, "pairs": len(pairs)},
        "draws": options.draws,
        "by_own": _rows(sides, {name: side.jaccard for name, side in sides.items()}),
        "by_plain_words": _rows(sides, dict.fromkeys(sides, plain)),
        "mean_jaccard": {name: side.jaccard.mean() for name, side in sides.items()} | {"plain": plain.mean()},
    }
    title = f"recall of {len(pairs)} planted pairs over {options.draws} draws (standard errors), pairs by "
    table(title + "the similarity that each side gives them", found["by_own"])
    table(title + "the similarity of their words between spaces", found["by_plain_words"])
    table("mean similarity of the pairs", [found["mean_jaccard"]])
    if options.peer_python:
        found["itself"] = _itself(options)
        table("datatrove beside itself under another seed", [found["itself"]])
    print(save(f"recall-{options.kind}", found))


def _pairs(options: Namespace) -> list[tuple[str, str]]:
    """Planted pairs that are no exact copies, at most so many a bin."""
    path, truth = corpus.planted(options.kind, options.megabytes)
    documents = corpus.load(path)
    chosen = [
        [pair for pair in truth if low <= pair.jaccard < high][:MOST_PAIRS] for low, high in pairwise(EDGES)
    ]
    return [
        (documents[pair.original].text, documents[pair.copy].text) for inside in chosen for pair in inside
    ]


def _luban(pairs: Sequence[tuple[str, str]], draws: int) -> Side:
    texts = [text for pair in pairs for text in pair]
    items, counts = shingles(Packed.of(texts), NGRAM)
    met = []
    for seed in range(draws):
        values = signatures(items, counts, BANDS * ROWS, seed=seed)
        keys = band_keys(values, counts, bands=BANDS, rows=ROWS)
        met.append(((keys[0::2] == keys[1::2]) & (keys[0::2] != 0)).any(axis=1))
    places = [(place, place + 1) for place in range(0, len(texts), 2)]
    return Side(np.array(met), np.array(similarities(texts, places, ngram=NGRAM)))


def _datatrove(pairs: Sequence[tuple[str, str]], options: Namespace) -> Side:
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "texts.jsonl", Path(name) / "found.npz"
        source.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
        command([options.peer_python, PEER_RECALL, source, out, str(options.draws)])
        with np.load(out) as found:
            return Side(found["met"], found["jaccard"])


def _plain_jaccard(one: str, other: str) -> float:
    """How alike two texts are by runs of words between spaces, which is neither side's reading."""
    words = (text.lower().split() for text in (one, other))
    mine, yours = ({tuple(own[at : at + NGRAM]) for at in range(len(own) - NGRAM + 1)} for own in words)
    return len(mine & yours) / max(1, len(mine | yours))


def _rows(sides: dict[str, Side], jaccards: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Each side's recall by bins of the similarity that is given for it."""
    rows = []
    for low, high in pairwise(EDGES):
        row: dict[str, Any] = {"Jaccard": f"{low:g} to {high:g}"}
        for name, side in sides.items():
            inside = (jaccards[name] >= low) & (jaccards[name] < high)
            row |= _figures(name, side.met[:, inside], side.jaccard[inside])
        rows.append(row)
    return rows


def _figures(name: str, met: np.ndarray, jaccard: np.ndarray) -> dict[str, int | str]:
    """Recall with the standard error that comes of the draws, and theory for these pairs."""
    each = met.mean(axis=1)
    error = each.std(ddof=1) / len(each) ** 0.5
    theory = meeting_chance(jaccard, bands=BANDS, rows=ROWS).mean()
    return {
        f"{name}'s pairs": len(jaccard),
        name: f"{each.mean():.4f} +- {error:.4f}",
        f"{name}, theory": f"{theory:.4f}",
    }


def _itself(options: Namespace) -> dict[str, Any]:
    """Shares of equal single decisions of two whole chains of datatrove that differ in the seed only."""
    path, _ = corpus.planted("prose", 22.5)
    documents = corpus.load(path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split(documents, folder / "in", FILES)
        kept = []
        for seed in (1, 2):
            command([options.peer_python, PEER, folder / "in", folder / "out", "--seed", str(seed)])
            kept.append(kept_by_peer(folder / "out"))
    (filtered, first), (_, second) = kept
    return {
        "documents": len(documents),
        "through the filters": len(filtered),
        "kept by one, by the other": f"{len(first)}, {len(second)}",
        "equal after the filters": 1 - len(first ^ second) / len(filtered),
        "equal end to end": 1 - len(first ^ second) / len(documents),
    }
