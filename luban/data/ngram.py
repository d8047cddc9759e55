"""`luban data ngram`: an n-gram language model of good text; the step `perplexity` filters with it.

Words are counted in chunks within a bound of memory, smoothed by modified Kneser-Ney, and written as a table that
is mapped for scoring. An ARPA file of other makers becomes such a model too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from luban.errors import ConfigError, DataError
from luban.folder import stage_folder

SHARES = (10, 30, 50, 60, 90)
"""Percentiles of the held-out documents' perplexities to show, those of CCNet's buckets among them."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train an n-gram language model on documents, or take one from an ARPA file."""

    data: tuple[Path, ...]
    """Documents folders (their held-out part measures) or files; or one .arpa or .arpa.gz file."""
    out: Path
    """The model folder to make."""
    order: Annotated[int, Ge(1), Le(5)] = 5
    """How many words an n-gram has at most."""
    prune: tuple[Annotated[int, Ge(0)], ...] = (0, 0, 1)
    """Leave out n-grams seen at most so often, per order, the last number for all higher ones."""
    words: Literal["luban", "spaces"] | None = None
    """A word is what the package's rule says, or what stands between spaces (of ARPA files the default)."""
    normalise: bool | None = None
    """Lower case, and each digit as 0; of ARPA files the default is not to."""
    arpa: bool = False
    """Write model.arpa too, for KenLM and others."""
    memory_mb: Annotated[int, Ge(1)] = 2000
    """About what counting may take before it goes on disk."""


def run(config: Config) -> dict[str, Any]:
    """Make the model folder; returns sizes, discounts, and the perplexity of the held-out documents."""
    from luban.ngram.kneser_ney import check_prune

    check_prune(config.prune, config.order)
    given = [path for path in config.data if path.name.endswith((".arpa", ".arpa.gz"))]
    if given and (len(config.data) > 1 or config.arpa):
        raise ConfigError("an ARPA file stands alone, and needs no model.arpa", where=given[0])
    started = time.monotonic()
    with stage_folder(config.out, stage="data ngram", config=config, inputs=config.data) as (folder, metrics):
        metrics.update(_convert(config, folder) if given else _train(config, folder))
        metrics["seconds"] = round(time.monotonic() - started, 2)
    return metrics


def show(results: dict[str, Any]) -> None:
    """The result as a short page."""
    print(f"n-grams      {' '.join(f'{n}: {count:,}' for n, count in enumerate(results['ngrams'], 1))}")
    if "bytes" in results:
        print(
            f"learnt from  {results['documents']:,} documents, {results['words']:,} words, {results['bytes']:,} bytes"
        )
    for n, order in enumerate(results.get("discounts", []), 1):
        note = "" if order["estimated"] else "  (too few counts to estimate them)"
        print(f"discounts {n}  {' '.join(f'{value:.3f}' for value in order['values'])}{note}")
    if "held_out" in results:
        held = results["held_out"]
        shares = ", ".join(f"{name} {value:,.0f}" for name, value in held["percentiles"].items())
        print(f"held out     perplexity {held['perplexity']:,.1f}, unknown words {held['unknown']:.2%}")
        print(f"             by document: {shares}")
    print(f"seconds      {results['seconds']}")


def _convert(config: Config, folder: Path) -> dict[str, Any]:
    from luban.ngram.model import from_arpa

    model, sizes = from_arpa(config.data[0], words=config.words or "spaces", normalise=bool(config.normalise))
    model.save(folder)
    return {"ngrams": sizes}


def _train(config: Config, folder: Path) -> dict[str, Any]:
    import tempfile

    from luban.data.packs import packs
    from luban.data.progress import announce
    from luban.data.sources import read_documents
    from luban.ngram.arpa import write_arpa
    from luban.ngram.counts import Counter
    from luban.ngram.kneser_ney import estimate
    from luban.ngram.model import build
    from luban.ngram.vocabulary import Vocabulary

    normalise, words = config.normalise is not False, config.words or "luban"
    vocabulary, documents, size = Vocabulary(), 0, 0
    with tempfile.TemporaryDirectory(dir=folder) as work:
        counter = Counter(config.order, folder=Path(work), memory=config.memory_mb * 1_000_000)
        texts = (document.text for document in read_documents(config.data))
        for pack in packs(announce(texts, stage="data ngram", noun="documents")):
            counter.add(vocabulary.encode(pack, words=words, normalise=normalise))
            documents, size = documents + len(pack.starts), size + len(pack.buffer)
        if not len(vocabulary):
            raise DataError("there is no word in these documents", where=", ".join(map(str, config.data)))
        grams, discounts = estimate(counter, words=len(vocabulary), prune=config.prune)
    letters, ends = vocabulary.spelling()
    if config.arpa:
        write_arpa(folder / "model.arpa", grams, letters, ends)
    model = build(grams, letters, ends, words=words, normalise=normalise)
    model.save(folder)
    return {
        "ngrams": [len(order.logp) for order in grams],
        "documents": documents,
        "bytes": size,
        "words": counter.ids - counter.sentences,
        "sentences": counter.sentences,
        "discounts": [{"values": list(each.values), "estimated": each.estimated} for each in discounts],
        **_held_out(config, model),
    }


def _held_out(config: Config, model: Any) -> dict[str, Any]:
    """What the model says of the data's held-out documents, if there are any."""
    import numpy as np

    from luban.data.packs import packs
    from luban.data.sources import HOLDOUT, read_documents

    folders = [path for path in config.data if (path / HOLDOUT).is_file()]
    texts = (document.text for document in read_documents(folders, holdout=True))
    scores = [model.score(pack) for pack in packs(texts)]
    words = sum(int(each.words.sum()) for each in scores)
    if not words:
        return {}
    each = np.concatenate([each.perplexity for each in scores])
    values = np.nanpercentile(each, SHARES)
    return {
        "held_out": {
            "documents": len(each),
            "perplexity": round(10 ** (-sum(float(s.logp.sum()) for s in scores) / words), 3),
            "unknown": round(sum(int(s.unknown.sum()) for s in scores) / words, 5),
            "percentiles": {f"{share}%": round(float(v), 2) for share, v in zip(SHARES, values, strict=True)},
        }
    }
