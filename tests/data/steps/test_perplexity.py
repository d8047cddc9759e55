"""Perplexity steps: thresholds, buckets by percentile, languages."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from luban.data import ngram
from luban.data.document import Document
from luban.data.step import Batch, Drop, Edit, Outcome
from luban.data.steps.perplexity import Perplexity, PerplexityBuckets
from luban.errors import ConfigError
from tests.data.test_ngram import documents
from tests.ngram.test_kneser_ney import bible

RUTH = bible("Ruth")
MIXED = [" ".join(sorted(verse.split())) for verse in RUTH]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("perplexity")
    data = documents(root / "mark", train=bible("Mark"))
    ngram.run(ngram.Config(data=(data,), out=root / "model", order=3))
    return root / "model"


def batch(texts: list[str], *, first: int = 0, language: str | None = "en") -> Batch:
    meta = {} if language is None else {"language": language}
    rows = [Document(id=str(n), text=text, source="", meta=meta) for n, text in enumerate(texts)]
    return Batch(rows, first)


def value(outcome: Outcome) -> float:
    return outcome.meta["perplexity"] if isinstance(outcome, Edit) else float(outcome.value)  # type: ignore[union-attr, arg-type] - every outcome here has one


def through(step: PerplexityBuckets, parts: list[list[str]], folder: Path) -> list[list[Outcome]]:
    """The three moves of a corpus step over parts."""
    saved, decisions = [], [folder / f"decided{number}.npy" for number in range(len(parts))]
    for number, texts in enumerate(parts):
        collected = step.collect(batch(texts))
        paths = {name: folder / f"{name}{number}.npy" for name in collected}
        for name, array in collected.items():
            np.save(paths[name], array)
        saved.append(paths)
    step.resolve(saved, decisions, memory=1 << 20)
    return [
        list(step.apply(batch(texts), np.load(path))) for texts, path in zip(parts, decisions, strict=True)
    ]


def test_text_in_a_jumble_is_dropped_and_text_in_order_stays(model: Path) -> None:
    every = Perplexity(models={"en": model})
    good, bad = every(batch(["\n".join(RUTH), "\n".join(MIXED)]))
    limit = (value(good) + value(bad)) / 2
    kept, dropped = Perplexity(models={"en": model}, max_perplexity=limit)(
        batch(["\n".join(RUTH), "\n".join(MIXED)])
    )
    assert kept == good
    assert isinstance(dropped, Drop)
    assert dropped.reason == "perplexity_high"
    assert dropped.value == pytest.approx(value(bad), abs=0.01)


def test_text_that_the_model_knows_by_heart_is_dropped_below(model: Path) -> None:
    known = "\n".join(bible("Mark")[:20])
    outcomes = Perplexity(models={"*": model}, min_perplexity=30)(batch([known, "\n".join(RUTH)]))
    assert isinstance(outcomes[0], Drop)
    assert outcomes[0].reason == "perplexity_low"
    assert isinstance(outcomes[1], Edit)


def test_each_language_has_its_model_and_others_stay_counted(model: Path) -> None:
    step = Perplexity(models={"en": model}, max_perplexity=1e-9)
    assert step(batch(["hello"], language="de")) == [Edit(changes={"no_perplexity_model": 1})]
    assert step(batch(["hello"], language=None)) == [Edit(changes={"no_perplexity_model": 1})]
    assert isinstance(step(batch(["hello"]))[0], Drop)
    both = Perplexity(models={"en": model, "*": model})
    assert both(batch(["hello"], language="de")) == both(batch(["hello"]))


def test_a_document_without_words_is_dropped_as_such(model: Path) -> None:
    assert Perplexity(models={"*": model})(batch(["", " \n"])) == [Drop("no_words"), Drop("no_words")]


def test_outcomes_depend_on_the_document_alone(model: Path) -> None:
    step = pickle.loads(pickle.dumps(Perplexity(models={"*": model}, max_perplexity=300)))
    together = list(step(batch(RUTH)))
    assert together == [step(batch([verse]))[0] for verse in RUTH]
    assert {type(outcome) for outcome in together} == {Drop, Edit}


def test_buckets_cut_the_corpus_at_its_percentiles(model: Path, tmp_path: Path) -> None:
    step = PerplexityBuckets(models={"en": model}, keep=("head", "middle"))
    outcomes = [o for part in through(step, [RUTH[:7], RUTH[7:50], RUTH[50:]], tmp_path) for o in part]
    values = np.array([value(outcome) for outcome in outcomes])
    names = [o.meta["perplexity_bucket"] if isinstance(o, Edit) else "tail" for o in outcomes]
    ordered = [names[index] for index in np.argsort(values, kind="stable")]
    count = len(RUTH)
    head, middle = int(np.ceil(0.3 * count)), int(np.ceil(0.6 * count))
    assert ordered == ["head"] * head + ["middle"] * (middle - head) + ["tail"] * (count - middle)
    assert {o.reason for o in outcomes if isinstance(o, Drop)} == {"perplexity_tail"}


def test_buckets_do_not_depend_on_the_parts(model: Path, tmp_path: Path) -> None:
    step = PerplexityBuckets(models={"en": model})
    (whole,) = through(step, [RUTH], tmp_path)
    parts = through(step, [RUTH[:1], [], RUTH[1:]], tmp_path)
    assert [outcome for part in parts for outcome in part] == whole


def test_settings_that_contradict_are_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match="models"):
        Perplexity(models={})
    with pytest.raises(ConfigError, match="middle"):
        PerplexityBuckets(models={"en": model}, head=0.7)
