"""Quality steps: Pareto's rule, a threshold, a share of the corpus."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from luban.data import linear
from luban.data.document import Document
from luban.data.step import Batch, Drop, Edit, Packed
from luban.data.steps.quality import Quality, QualityShare, draws, pareto

WORDS = ["good", "fine", "well", "bad", "awful", "poor"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gives single words scores all over the range."""
    folder = tmp_path_factory.mktemp("quality")
    weights = np.zeros((1 << 18) + 1, np.float32)
    for number, word in enumerate(WORDS):
        bucket = linear.Features.of([Packed.of([word])], bits=18).counted[0, 0]
        weights[bucket] = 3 - 1.2 * number
    linear.LinearModel(weights=weights, bits=18).save(folder)
    return folder


def batch(texts: list[str], first: int = 0) -> Batch:
    return Batch([Document(id=str(n), text=text, source="") for n, text in enumerate(texts)], first)


def test_a_threshold_keeps_scores_that_reach_it(model: Path) -> None:
    outcomes = Quality(model=model, rule="threshold", threshold=0.5)(batch(WORDS))
    assert [type(outcome) for outcome in outcomes] == [Edit] * 3 + [Drop] * 3
    first, last = outcomes[0], outcomes[-1]
    assert isinstance(first, Edit)
    assert first.meta["quality"] == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-4)
    assert isinstance(last, Drop)
    assert (last.reason, last.value) == ("low_quality", pytest.approx(1 / (1 + np.exp(3)), abs=1e-4))


def test_without_a_rule_all_stay_with_their_scores(model: Path) -> None:
    outcomes = Quality(model=model, rule="none")(batch(WORDS))
    assert all(isinstance(outcome, Edit) and "quality" in outcome.meta for outcome in outcomes)


def test_draws_are_distributed_as_numpys_pareto() -> None:
    ours = np.sort(pareto(np.random.default_rng(0).random(200_000), 9.0))
    theirs = np.sort(np.random.default_rng(1).pareto(9.0, 200_000))
    places = [20_000, 100_000, 180_000, 198_000]
    assert ours[places] == pytest.approx(theirs[places], rel=0.03)


def test_paretos_rule_keeps_the_share_that_its_formula_gives(model: Path) -> None:
    # Words that the model does not know leave the score at 1/2: (2 - 0.5)^-alpha of them stay.
    texts = [f"unknown{number}" for number in range(20_000)]
    for alpha in (1.0, 9.0):
        outcomes = Quality(model=model, alpha=alpha)(batch(texts))
        kept = sum(isinstance(outcome, Edit) for outcome in outcomes) / len(texts)
        assert kept == pytest.approx(1.5**-alpha, abs=4 * np.sqrt(1.5**-alpha / len(texts)))


def test_a_texts_draw_depends_on_text_and_seed_alone(model: Path) -> None:
    texts = [f"unknown{number}" for number in range(300)]
    step = pickle.loads(pickle.dumps(Quality(model=model, alpha=1.0)))
    together = list(step(batch(texts)))
    assert together == [step(batch([text], first=7))[0] for text in texts]
    assert list(reversed(together)) == list(step(batch(texts[::-1])))
    assert together != list(Quality(model=model, alpha=1.0, seed=1)(batch(texts)))
    uniform = draws(batch(texts), 0)
    assert ((uniform >= 0) & (uniform < 1)).all()
    assert len(set(uniform)) == len(texts)


@pytest.mark.parametrize(("share", "kept"), [(0.5, 3), (0.34, 3), (0.33, 2), (1.0, 6), (0.01, 1)])
def test_the_best_share_of_the_corpus_stays_whatever_the_parts(
    share: float, kept: int, model: Path, tmp_path: Path
) -> None:
    step = QualityShare(model=model, share=share)
    for parts in ([WORDS], [WORDS[4:], [], WORDS[:4]]):
        paths = [{"score": tmp_path / f"score{number}.npy"} for number in range(len(parts))]
        decisions = [tmp_path / f"decided{number}.npy" for number in range(len(parts))]
        for texts, path in zip(parts, paths, strict=True):
            np.save(path["score"], step.collect(batch(texts))["score"])
        step.resolve(paths, decisions, memory=1 << 20)
        stay = [
            text
            for texts, path in zip(parts, decisions, strict=True)
            for text, outcome in zip(texts, step.apply(batch(texts), np.load(path)), strict=True)
            if isinstance(outcome, Edit)
        ]
        assert sorted(stay) == sorted(WORDS[:kept])
