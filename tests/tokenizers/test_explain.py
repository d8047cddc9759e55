"""The small algorithms: published examples by hand, and equal to `tokenizers` where both mean the same."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import models, trainers

from luban.errors import ConfigError
from luban.tokenizers import explain
from luban.tokenizers.explain import bpe, unigram, wordpiece

SENNRICH = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
HUGS = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
CORPORA = st.dictionaries(st.text("abcd", min_size=1, max_size=6), st.integers(1, 30), min_size=1, max_size=6)
WORDS = st.text("abcd", min_size=1, max_size=8)


def test_bpe_merges_of_the_published_example():
    # Sennrich et al. 2016, algorithm 1. Counts by hand: es, est, est</w> in newest (6) and widest (3); lo, low
    # in low (5) and lower (2); ne, new, newest</w> in newest (6); low</w> (5); wi in widest (3).
    merges = bpe.learn(SENNRICH, 10)
    assert [merge.made for merge in merges] == [
        "es", "est", "est</w>", "lo", "low", "ne", "new", "newest</w>", "low</w>", "wi",
    ]  # fmt: skip
    assert [merge.count for merge in merges] == [9, 9, 9, 7, 7, 6, 6, 6, 5, 3]


def test_lowest_is_cut_into_low_and_est():
    steps = bpe.encode("lowest", bpe.learn(SENNRICH, 10))
    assert steps[0] == (None, ("l", "o", "w", "e", "s", "t", "</w>"))
    assert steps[-1][1] == ("low", "est</w>")
    assert [merge.made for merge, _ in steps if merge] == ["es", "est", "est</w>", "lo", "low"]


def test_bpe_learns_what_tokenizers_learns_where_no_tie_is_to_be_broken():
    chance, compared = random.Random(0), 0
    for _ in range(2000):
        words = {
            "".join(chance.choices("abcd", k=chance.randint(2, 4))): chance.randint(1, 60) for _ in range(5)
        }
        merges = bpe.learn(words, 4, end="")
        if any(merge.ties for merge in merges):
            continue
        compared += 1
        letters = set("".join(words))
        trainer = trainers.BpeTrainer(vocab_size=len(letters) + len(merges), show_progress=False)
        theirs = tokenizers.Tokenizer(models.BPE())
        theirs.train_from_iterator([w for word, count in words.items() for w in [word] * count], trainer)
        learnt = json.loads(theirs.to_str())["model"]["merges"]
        assert [merge.pair for merge in merges] == [tuple(pair) for pair in learnt]
    assert compared > 50


@settings(max_examples=80, deadline=None)
@given(words=CORPORA, text=WORDS)
def test_bpe_cuts_as_tokenizers_with_the_same_merges(words: dict[str, int], text: str):
    merges = bpe.learn(words, 8, end="_")
    symbols = sorted(set("abcd_"))
    vocab = {symbol: number for number, symbol in enumerate([*symbols, *(merge.made for merge in merges)])}
    theirs = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[merge.pair for merge in merges]))
    assert list(bpe.encode(text, merges, end="_")[-1][1]) == theirs.encode(text + "_").tokens


def test_wordpiece_scores_by_hand():
    # Times alone: h 15, ##u 36, ##g 20, p 17, ##n 16, b 4, ##s 5. Pairs: hu 15/(15*36), ##ug 20/(36*20),
    # pu 17/(17*36), ##un 16/(36*16), bu 4/(4*36): all 1/36; ##gs 5/(20*5) = 1/20 is more.
    _, merges = wordpiece.learn(HUGS, 3)
    assert (merges[0].made, merges[0].parts, merges[0].score) == ("##gs", (20, 5), pytest.approx(1 / 20))
    # Then h and ##u stand together 15 times: 1/36, as p + ##u and others, but seen first.
    assert (merges[1].made, merges[1].score) == ("hu", pytest.approx(1 / 36))
    # Then hu is there 15 times, ##g (not in hugs now) 15 times: 10/(15*15); hu + ##gs 5/(15*5) = 1/15 is more.
    assert (merges[2].made, merges[2].score) == ("hugs", pytest.approx(1 / 15))


def test_wordpiece_takes_the_longest_match_and_gives_up_on_a_whole_word():
    pieces, matches = wordpiece.encode("hugbun", ["h", "hu", "hug", "##b", "##un", "##u", "##n"])
    assert pieces == ["hug", "##b", "##un"]
    assert [match.tried[-1] for match in matches] == pieces
    assert matches[0].tried == ("hugbun", "hugbu", "hugb", "hug")
    assert wordpiece.encode("hugx", ["hug", "##s"])[0] == ["[UNK]"]


@settings(max_examples=80, deadline=None)
@given(words=CORPORA, text=WORDS)
def test_wordpiece_cuts_as_tokenizers_with_the_same_pieces(words: dict[str, int], text: str):
    characters, merges = wordpiece.learn(words, 8)
    vocab = {
        piece: n
        for n, piece in enumerate(dict.fromkeys(["[UNK]", *characters, *(merge.made for merge in merges)]))
    }
    theirs = tokenizers.Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    assert wordpiece.encode(text, vocab)[0] == theirs.encode(text).tokens


def test_unigram_learns_the_stems_and_endings_of_the_example():
    # By hand: with est, low, new, wid and er as pieces every word is low, low+er, new+est or wid+est: 27 pieces.
    model, _ = unigram.learn(SENNRICH, 10)
    counts = {"est": 9, "low": 7, "new": 6, "wid": 3, "er": 2}
    for piece, count in counts.items():
        assert model[piece] == pytest.approx(count / 27, abs=1e-4)
    assert unigram.viterbi("lowest", model)[0] == ["low", "est"]


def test_unigram_probabilities_of_cuts_by_hand():
    # Counts h 15, u 36, g 20, hu 15, ug 20, p 17, pu 17, hug 15, ... as in the Hugging Face course.
    model = {"p": 17 / 210, "u": 36 / 210, "g": 20 / 210, "pu": 17 / 210, "ug": 20 / 210}
    cuts = [(17 * 36 * 20) / 210**3, (17 * 20) / 210**2, (17 * 20) / 210**2]  # p u g, pu g, p ug
    assert unigram.forward("pug", model)[-1] == pytest.approx(sum(cuts))
    assert unigram.backward("pug", model)[0] == pytest.approx(sum(cuts))
    best, lattice = unigram.viterbi("pug", model)
    assert best in (["pu", "g"], ["p", "ug"])
    assert max(edge.score for edge in lattice if edge.end == 3) == pytest.approx(math.log(max(cuts)))


def test_one_em_step_by_hand():
    # "ab" once, cut as ab or a b. P(ab) = .5, P(a)P(b) = .0625: the whole is 8/9 of it. Expected counts: ab 8/9,
    # a 1/9, b 1/9; of 10/9 in all that is .8, .1, .1.
    stepped = unigram.em_step({"ab": 0.5, "a": 0.25, "b": 0.25}, {"ab": 1})
    assert stepped == pytest.approx({"ab": 0.8, "a": 0.1, "b": 0.1})


@settings(max_examples=60, deadline=None)
@given(CORPORA)
def test_em_never_lowers_the_likelihood(words: dict[str, int]):
    model = unigram.normalised(unigram.candidates(words))
    likelihoods = []
    for _ in range(5):
        likelihoods.append(unigram.log_likelihood(model, words))
        model = unigram.em_step(model, words)
    assert all(after >= before - 1e-9 for before, after in pairwise(likelihoods))


@settings(max_examples=80, deadline=None)
@given(words=CORPORA, text=WORDS)
def test_unigram_cuts_as_tokenizers_with_the_same_probabilities(words: dict[str, int], text: str):
    assume(set(text) <= set("".join(words)))
    model, _ = unigram.learn(words, 4)
    best, lattice = unigram.viterbi(text, model)
    vocab = [("?", -100.0), *((piece, math.log(p)) for piece, p in model.items())]
    theirs = tokenizers.Tokenizer(models.Unigram(vocab=vocab, unk_id=0)).encode(text).tokens
    assert best is not None
    scores = [sum(math.log(model[piece]) for piece in cut) for cut in (best, theirs)]
    assert scores[0] == pytest.approx(scores[1])  # where two cuts are as good, either may be given
    assert max(edge.score for edge in lattice if edge.end == len(text)) == pytest.approx(scores[0])


@pytest.mark.parametrize(
    ("kind", "line", "ending"),
    [
        (
            "bpe",
            "e + s            es                9 times, as s + t, t + </w>: first seen wins",
            "low est</w>",
        ),
        ("wordpiece", "w + ##i            wi         3 / (3 * 3) = 0.3333, as ##i + ##d", "low ##e ##st"),
        ("unigram", "...est  log p   -1.099   sum   -2.449  best to here", "low est"),
    ],
)
def test_the_page_shows_the_steps(kind: str, line: str, ending: str, capsys: pytest.CaptureFixture[str]):
    explain.show(explain.run(explain.Config(type=kind)))  # pyright: ignore[reportArgumentType] - one of the three
    page = capsys.readouterr().out
    assert line in page
    assert page.endswith(f"lowest = {ending}\n")


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_a_character_never_seen_is_unknown(kind: str):
    results = explain.run(explain.Config(type=kind, text="low lox"))  # pyright: ignore[reportArgumentType] - as above
    assert "[UNK]" in results["pieces"]["lox"]
    assert "[UNK]" not in results["pieces"]["low"]


def test_words_are_counted_as_given():
    assert explain.counted(["low:5", "low", "a:b:2"]) == {"low": 6, "a:b": 2}
    for wrong in ("low:", ":5", "low:x", "low:0"):
        with pytest.raises(ConfigError, match="setting 'words'"):
            explain.counted([wrong])


def test_a_text_without_words_is_refused():
    with pytest.raises(ConfigError, match="no word in it"):
        explain.run(explain.Config(text="  "))
