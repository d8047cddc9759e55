"""n-gram models: training (no wheel trains fast enough to be a peer), scoring beside KenLM's, from one ARPA file."""

from __future__ import annotations

import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from factory import corpus
from factory.measure import apart, in_turn, rates, save, spread, table
from luban.data import ngram
from luban.data.step import Packed

ORDER, PRUNE = 5, (0, 0, 1)


def run(options: Namespace) -> None:
    documents = corpus.sample(options.kind, options.megabytes)
    held = documents[-max(1, len(documents) // 50) :]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = corpus.write(folder / "train.jsonl", documents[: -len(held)]) / 1e6
        corpus.write(folder / "held.jsonl", held)
        settings = ngram.Config(
            data=(folder / "train.jsonl",), out=folder / "model", order=ORDER, prune=PRUNE, arpa=True
        )
        figures = ngram.run(settings)
        trained = in_turn({"train": lambda: apart(_train, folder)}, options.rounds)["train"]
        works = in_turn(
            {
                "luban, from raw text": lambda: apart(_score, folder / "model", folder / "train.jsonl"),
                "luban, from words between spaces": lambda: apart(_score_words, folder),
                "kenlm, from words between spaces": lambda: apart(_kenlm, folder),
            },
            options.rounds,
        )
    ours, theirs = (works[f"{side}, from words between spaces"][0].value for side in ("luban", "kenlm"))
    found: dict[str, Any] = {
        "megabytes": size,
        "ngrams": figures["ngrams"],
        "train": {
            "MB per CPU s": spread([size / work.cpu_s for work in trained], 1),
            "MB/s": spread([size / work.wall_s for work in trained], 1),
            "memory grows MB": max(work.grown_mb for work in trained),
        },
        "score": rates(size, works, "luban, from words between spaces"),
        "log10_probability": {"luban": ours, "kenlm": theirs},
    }
    table(f"n-gram training, order {ORDER}, {size:.1f} MB, whole command without start-up", [found["train"]])
    table("scoring the same text", found["score"])
    print(f"sum of log10 probabilities: Luban {ours:.3f}, KenLM {theirs:.3f}")
    print(save("ngram", found))


def _train(folder: Path) -> Callable[[], Any]:
    import luban.data.sources
    import luban.ngram.model  # noqa: F401 - loaded before the clock starts

    out = folder / "again"
    shutil.rmtree(out, ignore_errors=True)
    return lambda: ngram.run(ngram.Config(data=(folder / "train.jsonl",), out=out, order=ORDER, prune=PRUNE))[
        "words"
    ]


def _score(model: Path, data: Path) -> Callable[[], float]:
    from luban.ngram.model import open_model

    opened, texts = open_model(model), Packed.of([document.text for document in corpus.load(data)])
    opened.score(Packed.of(["first"]))
    return lambda: float(opened.score(texts).logp.sum())


def _score_words(folder: Path) -> Callable[[], float]:
    from luban.ngram.model import from_arpa

    opened, _ = from_arpa(folder / "model" / "model.arpa")
    lines = Packed.of(_lines(folder / "train.jsonl"))
    opened.score(Packed.of(["first"]))
    return lambda: float(opened.score(lines).logp.sum())


def _kenlm(folder: Path) -> Callable[[], float]:
    import kenlm

    opened, lines = kenlm.Model(str(folder / "model" / "model.arpa")), _lines(folder / "train.jsonl")
    return lambda: sum(opened.score(line) for line in lines)


def _lines(data: Path) -> list[str]:
    """Lower-cased lines with one space between words, as KenLM's users prepare them."""
    texts = (document.text.lower() for document in corpus.load(data))
    return [" ".join(line.split()) for text in texts for line in text.split("\n") if line.strip()]
