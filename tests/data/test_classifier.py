"""The stage `data classifier` and its linear model."""

from __future__ import annotations

import json
import math
import random
import re
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import luban
from luban.data import classifier, linear
from luban.data.classifier import Config, auc, calibration
from luban.data.step import Packed
from luban.errors import DataError
from luban.fetch import bible
from luban.native.unicode import IDEOGRAPHS
from tests.data.test_ngram import documents

WEB = Path(luban.__file__).parent / "fetch" / "web.tsv.gz"


def pieces(first: str, last: str) -> list[str]:
    """The Bible from one book to another, in pieces of two verses."""
    chapters = list(bible.chapters(WEB))
    names = [name for name, _ in chapters]
    begin = next(index for index, name in enumerate(names) if name.startswith(first))
    end = max(index for index, name in enumerate(names) if name.startswith(last))
    verses = [verse for _, text in chapters[begin : end + 1] for verse in text]
    return ["\n".join(verses[at : at + 2]) for at in range(0, len(verses), 2)]


@pytest.fixture(scope="module")
def sides() -> tuple[list[str], list[str]]:
    """Gospels against the law: the same translators' English, so that it is no easy task."""
    return pieces("Matthew", "John"), pieces("Exodus", "Deuteronomy")


@pytest.fixture(scope="module")
def trained(
    sides: tuple[list[str], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("classifier")
    good, raw = (
        documents(root / name, train=texts) for name, texts in zip(("good", "raw"), sides, strict=True)
    )
    return root / "model", classifier.run(Config(good=(good,), raw=(raw,), out=root / "model"))


def test_it_ranks_as_well_as_scikit_learns_logistic_regression(sides: tuple[list[str], list[str]]) -> None:
    good, raw = (side[::2] for side in sides)
    texts = [*good, *raw]
    labels = np.array([True] * len(good) + [False] * len(raw))
    held = np.random.default_rng(0).random(len(texts)) < 0.3
    train = [text for text, out in zip(texts, held, strict=True) if not out]
    test = [text for text, out in zip(texts, held, strict=True) if out]
    hashed = HashingVectorizer(n_features=1 << 18, ngram_range=(1, 2), alternate_sign=False)
    oracle = LogisticRegression(C=10, max_iter=300).fit(hashed.transform(train), labels[~held])
    theirs = roc_auc_score(labels[held], oracle.predict_proba(hashed.transform(test))[:, 1])
    features = linear.Features.of([Packed.of(train)], bits=18)
    model, _ = linear.train(features, labels[~held], bits=18, epochs=3, learning_rate=0.1, seed=0)
    ours = auc(model.score(Packed.of(test)), labels[held])
    assert 0.9 < ours < 1
    assert ours > theirs - 0.001


def test_the_stage_reports_what_the_held_out_texts_say(trained: tuple[Path, dict]) -> None:
    _, results = trained
    held = results["held_out"]
    assert held["auc"] > 0.95
    assert held["calibration_error"] < 0.1
    assert sum(row["texts"] for row in held["calibration"]) == sum(
        results[side]["held_out"] for side in ("good", "raw")
    )
    assert held["pareto_kept"]["good"] > 3 * held["pareto_kept"]["raw"]
    assert results["losses"] == sorted(results["losses"], reverse=True)
    assert {"jesus", "disciples"} & set(" ".join(results["telling"]["good"]).split())
    assert {"yahweh", "moses", "israel"} & set(" ".join(results["telling"]["raw"]).split())


def test_training_again_gives_the_same_bytes(trained: tuple[Path, dict], tmp_path: Path) -> None:
    folder, _ = trained
    classifier.run(
        Config(good=(folder.parent / "good",), raw=(folder.parent / "raw",), out=tmp_path / "again")
    )
    assert (tmp_path / "again" / "weights.npy").read_bytes() == (folder / "weights.npy").read_bytes()


def test_scores_are_those_of_the_features_and_weights(trained: tuple[Path, dict]) -> None:
    model = linear.open_model(trained[0])
    for text in ("", "Jesus", "He said to them, 鲁班 said 12 words.", "a b a b a b"):
        features = linear.Features.of([Packed.of([text])], bits=model.bits)
        times = features.counted[:, 1].astype(float)
        logit = float(model.weights[-1])
        if len(times):
            logit += float(model.weights[features.counted[:, 0]] @ times) / math.sqrt(times.sum())
        assert model.score(Packed.of([text]))[0] == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-5)


def test_features_are_words_and_neighbours_whatever_the_case() -> None:
    def counted(text: str) -> list[list[int]]:
        return linear.Features.of([Packed.of([text])], bits=20).counted.tolist()

    assert counted("The Cat 17") == counted("the cat 09")
    one, two, three = counted("cat"), counted("dog"), counted("cat dog cat")
    assert [one[0][0], 2] in three
    assert [two[0][0], 1] in three
    assert len(three) == 4  # cat, dog, cat dog, dog cat


def words_of(text: str) -> list[str]:
    """The words by the rule itself, character by character: runs of letters and digits, runs of a sign, ideographs."""
    words: list[str] = []
    before = ""
    for character in text:
        sign = unicodedata.category(character)[0] not in "LNM"
        ideograph = character.isalpha() and any(low <= ord(character) <= high for low, high in IDEOGRAPHS)
        kind = "" if character.isspace() else character if sign and character.isascii() else "run"
        kind = "alone" if kind == "run" and (sign or ideograph) else kind
        if kind and kind == before != "alone":
            words[-1] += character
        elif kind:
            words.append(character)
        before = kind
    return words


def visible(word: str) -> str:
    return "".join(each for each in word if each > " " and not each.isspace())


PIECES = ["word", "_", "--", "...", " ", "\t", "7", "é", "鲁", "班", "。", "“", "\u00a0", "\u0301", "x" * 17]
MIXED = st.one_of(st.text(max_size=90), st.lists(st.sampled_from(PIECES), max_size=60).map("".join))


@given(MIXED.map(lambda text: text.encode("utf-8", "ignore").decode()))
def test_words_are_runs_of_letters_and_digits_runs_of_a_sign_and_ideographs(text: str) -> None:
    text = "".join(each.lower() if len(each.lower()) == 1 else each for each in text)
    words = words_of(re.sub("[0-9]", "0", text))
    features = linear.Features.of([Packed.of([text])], bits=24)
    assert features.counted[:, 1].sum() == max(0, 2 * len(words) - 1)
    spelt = linear._spell(Packed.of([text]), features.counted[:, 0], 24)
    pairs = [one + two for one, two in pairwise(words)]
    assert {visible(word) for word in spelt.values()} <= {visible(word) for word in [*words, *pairs]}


def test_every_letter_of_a_word_decides_on_its_bucket() -> None:
    words = [f"{'a' * at}b{'a' * (size - at - 1)}" for size in range(1, 41) for at in range(size)]
    features = linear.Features.of([Packed.of(words)], bits=24)
    assert len(set(features.counted[:, 0].tolist())) == len(words) == len(features.counted)


@pytest.mark.parametrize("bits", [9, 18, 24])
def test_counted_features_are_in_order_and_complete_whatever_their_number(bits: int) -> None:
    chance = random.Random(0)
    texts = [" ".join(f"w{chance.choice('abcdefgh')}" for _ in range(size)) for size in (1, 9, 300, 20000)]
    features = linear.Features.of([Packed.of(texts)], bits=bits)
    for size, begin, end in zip((1, 9, 300, 20000), [0, *features.ends], features.ends, strict=False):
        buckets, times = features.counted[begin:end].T
        assert (np.diff(buckets.astype(np.int64)) > 0).all()
        assert times.sum() == 2 * size - 1


@given(st.lists(st.text(max_size=60), max_size=6))
def test_batches_do_not_change_features(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    whole = linear.Features.of([Packed.of(texts)], bits=16)
    alone = linear.Features.of([Packed.of([text]) for text in texts], bits=16)
    assert np.array_equal(whole.counted, alone.counted)
    assert np.array_equal(whole.ends, alone.ends)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.2, 0.5, 1.0]), st.booleans()), min_size=2, max_size=30)
)
def test_auc_counts_won_comparisons(rows: list[tuple[float, bool]]) -> None:
    rows = [*rows, (0.3, True), (0.4, False)]
    good = [score for score, label in rows if label]
    raw = [score for score, label in rows if not label]
    won = sum((a > b) + 0.5 * (a == b) for a in good for b in raw)
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    assert auc(scores, labels) == pytest.approx(won / len(good) / len(raw))


def test_calibration_compares_scores_with_shares() -> None:
    scores, good = np.array([0.1, 0.15, 0.95, 1.0]), np.array([False, True, True, True])
    assert calibration(scores, good) == [
        {"score": 0.125, "good": 0.5, "texts": 2},
        {"score": 0.975, "good": 1.0, "texts": 2},
    ]


def test_it_says_when_there_is_nothing_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(0)
    texts = [" ".join(chance.choices(["a", "b", "c", "d", "e", "f", "g"], k=20)) for _ in range(400)]
    good, raw = (
        documents(tmp_path / name, train=part) for name, part in (("g", texts[:200]), ("r", texts[200:]))
    )
    results = classifier.run(Config(good=(good,), raw=(raw,), out=tmp_path / "model"))
    assert results["held_out"]["auc"] < 0.75
    if results["held_out"]["auc"] < 0.6:
        assert "hardly" in capsys.readouterr().err


def test_too_few_texts_are_refused_by_name(tmp_path: Path) -> None:
    good = documents(tmp_path / "good", train=["one", "two"])
    raw = documents(tmp_path / "raw", train=[f"text {number}" for number in range(100)])
    with pytest.raises(DataError, match="too few texts") as error:
        classifier.run(Config(good=(good,), raw=(raw,), out=tmp_path / "model"))
    assert str(good) in str(error.value)


def test_a_damaged_or_outdated_model_is_refused(trained: tuple[Path, dict], tmp_path: Path) -> None:
    facts = json.loads((trained[0] / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="whole classifier"):
        linear.open_model(tmp_path)
    np.save(tmp_path / "weights.npy", np.zeros(9, np.float32))
    (tmp_path / "model.json").write_text(json.dumps(facts | {"more": 1}))
    with pytest.raises(DataError, match="weights"):
        linear.open_model(tmp_path)
    np.save(tmp_path / "weights.npy", np.zeros((1 << 18) + 1, np.float32))
    (tmp_path / "model.json").write_text(json.dumps(facts | {"probe": "old"}))
    with pytest.raises(DataError, match="other words"):
        linear.open_model(tmp_path)
