"""Evaluation examples in a corpus: planted ones are cut with their surroundings, common phrases stay."""

from __future__ import annotations

import json
import pickle
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.document import Document
from luban.data.evaluation_rows import read_rows
from luban.data.step import Batch, Drop, Edit, Outcome, Packed
from luban.data.steps.decontaminate import Decontaminate, GramSet, n_per_text, pack
from luban.errors import ConfigError, DataError
from luban.fetch import bible
from tests.conftest import WEB

FACT = "The quick brown fox jumps over the lazy dog, while seven other animals silently watch it."
FILLER = "Nothing of what stands here was ever asked. " * 12


def rows(path: Path, *values: object) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    return rows(tmp_path / "eval.jsonl", {"question": FACT, "answer": "yes"})


def decide(
    step: Decontaminate, texts: Sequence[str], folder: Path, *, parts: int = 1, batch: int = 2
) -> list[Outcome]:
    """All outcomes, made as the factory makes them."""
    docs = [Document(id=str(number), text=text, source="test") for number, text in enumerate(texts)]
    groups = [[docs[index] for index in part] for part in np.array_split(np.arange(len(docs)), parts)]
    cut = [[Batch(group[at : at + batch], at) for at in range(0, len(group) or 1, batch)] for group in groups]
    saved = [{"found": folder / f"{number}.npy"} for number in range(parts)]
    for batches, place in zip(cut, saved, strict=True):
        np.save(place["found"], np.concatenate([step.collect(batch)["found"] for batch in batches]))
    decisions = [folder / f"{number}-decisions.npy" for number in range(parts)]
    step.resolve(saved, decisions, memory=1 << 20)
    return [
        outcome
        for batches, path in zip(cut, decisions, strict=True)
        for batch in batches
        for outcome in step.apply(batch, np.load(path))
    ]


def test_a_planted_example_goes_with_200_characters_on_both_sides(evaluation: Path, tmp_path: Path) -> None:
    before, after = "b" * 299 + " " + "c" * 200, "d" * 200 + " " + "e" * 299
    step = Decontaminate(against=(evaluation,), margin_chars=200, min_chars=200)
    outcome = decide(step, [f"{before} {FACT} {after}", FILLER], tmp_path)
    # 200 characters before the sentence end one character into the c's: the whole of that word goes.
    assert outcome[0] == Edit(
        f"{'b' * 299}\n\n{'e' * 299}",
        changes={"contaminated_passages": 1, "contaminated_chars": len(FACT) + 1002 - 600},
    )
    assert outcome[1] is None


@pytest.mark.parametrize("shown", [FACT.upper(), FACT.replace(" ", " - ").replace(",", "\n"), f"“{FACT}”"])
def test_case_signs_and_white_space_hide_nothing(evaluation: Path, tmp_path: Path, shown: str) -> None:
    (outcome,) = decide(Decontaminate(against=(evaluation,)), [FILLER + shown + FILLER], tmp_path)
    assert isinstance(outcome, Edit)


def test_fewer_words_in_a_row_are_no_evidence(evaluation: Path, tmp_path: Path) -> None:
    nearly = " ".join(FACT.split()[:12])
    assert decide(Decontaminate(against=(evaluation,)), [FILLER + nearly + FILLER], tmp_path) == [None]


def test_short_pieces_and_documents_in_many_pieces_go(evaluation: Path, tmp_path: Path) -> None:
    short, many = f"{FILLER[:150]} {FACT} {FILLER[:150]}", f"{FILLER}{FACT} " * 11 + FILLER
    outcomes = decide(Decontaminate(against=(evaluation,), margin_chars=0), [short, many], tmp_path)
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, Drop)] == [
        "contaminated_short",
        "contaminated",
    ]
    assert isinstance(outcomes[1], Drop)
    assert outcomes[1].value == 12


def test_what_many_documents_hold_is_a_common_phrase(evaluation: Path, tmp_path: Path) -> None:
    step, texts = Decontaminate(against=(evaluation,), common=3), [f"{FILLER}{FACT} {FACT} {FILLER}"] * 3
    assert all(isinstance(outcome, Edit) for outcome in decide(step, texts, tmp_path))
    assert decide(step, [*texts, texts[0]], tmp_path, parts=2) == [None] * 4


def test_parts_and_batches_change_nothing(evaluation: Path, tmp_path: Path) -> None:
    draw = random.Random(1)
    texts = [FILLER + (FACT if draw.random() < 0.3 else "") + FILLER for _ in range(30)]
    step = Decontaminate(against=(evaluation,), common=99)
    whole = decide(step, texts, tmp_path, batch=99)
    assert decide(step, texts, tmp_path, parts=4, batch=3) == whole
    assert len([outcome for outcome in whole if outcome]) == sum(FACT in text for text in texts)


def test_verses_planted_in_chapters_are_found_and_others_are_not_touched(tmp_path: Path) -> None:
    verses = {name: lines for name, lines in bible.chapters(WEB) if name.startswith(("Mark", "Genesis"))}
    asked = [max(lines, key=len) for name, lines in verses.items() if name.startswith("Mark")]
    evaluation = rows(tmp_path / "verses.jsonl", *({"messages": [{"content": verse}]} for verse in asked))
    texts = ["\n".join(lines) for name, lines in verses.items() if name.startswith("Genesis")]
    planted = random.Random(0).sample(range(len(texts)), len(asked))
    for index, verse in zip(planted, asked, strict=True):
        middle = texts[index].index("\n", len(texts[index]) // 2)
        texts[index] = texts[index][:middle] + "\n" + verse + texts[index][middle:]
    outcomes = decide(Decontaminate(against=(evaluation,)), texts, tmp_path, batch=7)
    assert sorted(index for index, outcome in enumerate(outcomes) if outcome) == sorted(planted)
    for index, verse in zip(planted, asked, strict=True):
        outcome = outcomes[index]
        assert isinstance(outcome, Drop) or (outcome and outcome.text and verse not in outcome.text)


def test_n_of_a_file_is_the_5th_percentile_of_its_lengths_within_bounds(tmp_path: Path) -> None:
    def ns(*lengths: int) -> list[int]:
        path = rows(tmp_path / "rows.jsonl", *({"text": "word " * length} for length in lengths))
        read = list(read_rows(path))
        return n_per_text(read, pack(read)[1], 8, 13).tolist()

    assert ns(*[40] * 20) == [13] * 20
    assert ns(*[10] * 2, *[40] * 18) == [10] * 20
    assert ns(*[3] * 2, *[9], *[40] * 17) == [0, 0, *[8] * 18]
    assert ns(*[10], *[40] * 39) == [10, *[13] * 39]  # the whole of a text a little too short


words = st.lists(st.sampled_from(["a", "b", "Á", "don", "漢", "-", "..."]), max_size=30)


@given(words, words, st.sets(st.integers(1, 5), min_size=1))
@settings(max_examples=200, deadline=None)
def test_grams_are_found_as_in_plain_python(
    evaluated: list[str], corpus: list[str], lengths: set[int]
) -> None:
    def grams(text: list[str], n: int) -> list[tuple[str, ...]]:
        plain = [word.lower() for word in text if re.search(r"\w", word)]
        return [tuple(plain[at : at + n]) for at in range(len(plain) - n + 1)]

    packed = Packed.of([" ".join(evaluated)])
    kept = GramSet.of((packed, np.array([n], np.int64)) for n in lengths)
    found = kept.find(Packed.of(["", " ".join(corpus)]))
    expected = {
        (1, n, at) for n in lengths for at, gram in enumerate(grams(corpus, n)) if gram in grams(evaluated, n)
    }
    text = " ".join(corpus).encode()
    spans = [
        (row[0], len(re.findall(r"\w+", text[row[3] : row[4]].decode())), row[2]) for row in found.tolist()
    ]
    assert set(spans) == expected
    assert len(spans) == len(expected)


def test_all_kinds_of_rows_are_read(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    (tmp_path / "list.json").write_text(
        '[{"id": 7, "q": "x", "choices": ["y", {"z": "z"}], "n": 3}]', encoding="utf-8"
    )
    assert [(row.id, row.texts) for row in read_rows(tmp_path / "lines.txt")] == [
        ("lines.txt:1", ("one",)),
        ("lines.txt:3", ("two",)),
    ]
    assert [(row.id, row.texts) for row in read_rows(tmp_path / "list.json")] == [("7", ("x", "y", "z"))]


@pytest.mark.parametrize("bad", ["{", '{"n": 3}', '{"q": "\\ud800"}'])
def test_a_malformed_row_is_named(tmp_path: Path, bad: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"q": "fine"}\n' + bad + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        list(read_rows(tmp_path / "bad.jsonl"))


def test_missing_files_and_crossed_bounds_are_told_before_the_work(evaluation: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        Decontaminate(against=(tmp_path / "absent.jsonl",))
    with pytest.raises(ConfigError, match="min_n"):
        Decontaminate(against=(evaluation,), min_n=14)
    with pytest.raises(ConfigError, match="no evaluation files"):
        Decontaminate(against=())


def test_the_step_travels(evaluation: Path) -> None:
    step = Decontaminate(against=(evaluation,), common=3)
    assert pickle.loads(pickle.dumps(step)) == step
