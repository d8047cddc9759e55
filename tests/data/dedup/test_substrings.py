"""Repeated passages: the same as a suffix array's, planted ones in real text, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydivsufsort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.dedup.substrings import Substrings
from luban.data.dedup.windows import cut_words, find_anchors
from luban.data.document import Document
from luban.data.step import Batch, Drop, Edit, Outcome, Packed
from luban.fetch import bible
from tests.conftest import WEB

corpora = st.lists(st.text("abc", max_size=40).map(" ".join), min_size=1, max_size=6)


def documents(texts: Sequence[str]) -> list[Document]:
    return [Document(id=str(index), text=text, source="test") for index, text in enumerate(texts)]


def decide(
    step: Substrings,
    texts: Sequence[str],
    folder: Path,
    *,
    parts: int = 1,
    batch: int = 3,
    memory: int = 1 << 24,
) -> list[np.ndarray]:
    """The decisions per part, made as the factory makes them."""
    saved, docs = [], documents(texts)
    for number, part in enumerate(np.array_split(np.arange(len(docs)), parts)):
        mine = [docs[index] for index in part]
        chunks = [
            step.collect(Batch(mine[at : at + batch], first=at)) for at in range(0, len(mine) or 1, batch)
        ]
        saved.append({name: folder / f"{number}-{name}.npy" for name in chunks[0]})
        for name, path in saved[-1].items():
            np.save(path, np.concatenate([chunk[name] for chunk in chunks]))
    paths = [folder / f"{number}-decisions.npy" for number in range(parts)]
    step.resolve(saved, paths, memory=memory)
    return [np.load(path) for path in paths]


def cut(step: Substrings, texts: Sequence[str], folder: Path) -> list[Outcome]:
    return list(step.apply(Batch(documents(texts)), decide(step, texts, folder)[0]))


def stretches(decisions: Sequence[np.ndarray], sizes: Sequence[int]) -> list[list[int]]:
    """All parts' decisions with documents counted through."""
    first = np.cumsum([0, *sizes])
    return [
        [int(row[0] + start), *row[1:].tolist()]
        for start, part in zip(first, decisions, strict=False)
        for row in part
    ]


def by_suffix_array(texts: Sequence[np.ndarray], length: int, keep: str) -> list[np.ndarray]:
    """Per text and word whether it is in a window of `length` words that stands elsewhere too, or earlier."""
    ends = [np.array([number], np.uint32) for number in range(len(texts))]  # each equal to nothing else
    flat = np.concatenate(
        [ids for text, end in zip(texts, ends, strict=True) for ids in (text + len(texts), end)]
    )
    order = pydivsufsort.divsufsort(flat.astype(np.uint32)).astype(np.int64)
    common = np.asarray(pydivsufsort.kasai(flat.astype(np.uint32), order))[:-1]
    group = np.cumsum(np.append(True, common < length)) - 1
    first = np.full(len(order), len(flat))
    np.minimum.at(first, group, order)
    places = order[(np.bincount(group)[group] > 1) & ((order != first[group]) | (keep == "none"))]
    covered = np.zeros(len(flat), bool)
    for offset in range(length):
        covered[places + offset] = True
    return [part[:-1] for part in np.split(covered, np.cumsum([len(text) + 1 for text in texts])[:-1])]


def by_luban(step: Substrings, texts: Sequence[str], sizes: Sequence[int], folder: Path) -> list[np.ndarray]:
    """The same by the step, in two parts and little memory."""
    halves = [len(part) for part in np.array_split(np.arange(len(texts)), 2)]
    covered = [np.zeros(size, bool) for size in sizes]
    for text, first, end in stretches(decide(step, texts, folder, parts=2, memory=1 << 20), halves):
        covered[text][first:end] = True
    return covered


@given(corpora, st.integers(2, 9), st.sampled_from(["first", "none"]))
@settings(max_examples=100, deadline=None)
def test_the_stretches_are_those_of_a_suffix_array(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], length: int, keep: str
) -> None:
    step = Substrings(words=length, keep=keep)  # type: ignore[arg-type] - hypothesis knows no Literal
    ids = [np.array([ord(word) for word in text.split()], np.int64) for text in texts]
    found = by_luban(step, texts, [len(text) for text in ids], tmp_path_factory.mktemp("parts"))
    assert all(map(np.array_equal, found, by_suffix_array(ids, length, keep)))


@pytest.mark.parametrize("keep", ["first", "none"])
def test_on_real_text_too_they_are_those_of_a_suffix_array(tmp_path: Path, keep: str) -> None:
    texts = ["\n".join(verses) for _, verses in bible.chapters(WEB)]
    step = Substrings(words=12, keep=keep)  # type: ignore[arg-type] - parametrize knows no Literal
    hashes = [find_anchors(Packed.of([text]), 1).words for text in texts]
    ids = np.unique(np.concatenate(hashes), return_inverse=True)[1]
    bounds = np.cumsum([len(text) for text in hashes])[:-1]
    expected = by_suffix_array(np.split(ids, bounds), 12, keep)
    found = by_luban(step, texts, [len(text) for text in hashes], tmp_path)
    assert sum(part.sum() for part in expected) > 10_000
    assert all(map(np.array_equal, found, expected))


@given(corpora, st.integers(2, 6), st.integers(1, 4), st.integers(1, 5), st.sampled_from([300, 1 << 24]))
@settings(max_examples=50, deadline=None)
def test_parts_batches_and_memory_change_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    length: int,
    parts: int,
    batch: int,
    memory: int,
) -> None:
    step = Substrings(words=length)
    sizes = [len(part) for part in np.array_split(np.arange(len(texts)), parts)]
    whole = decide(step, texts, tmp_path_factory.mktemp("whole"), batch=100)
    split = decide(step, texts, tmp_path_factory.mktemp("split"), parts=parts, batch=batch, memory=memory)
    assert stretches(split, sizes) == stretches(whole, [len(texts)])


def test_planted_passages_are_found_and_their_first_occurrence_stays(tmp_path: Path) -> None:
    chapters = ["\n".join(verses) for _, verses in bible.chapters(WEB)][:250]
    step = Substrings(min_chars=0)
    already = {tuple(row) for row in decide(step, chapters, tmp_path)[0].tolist()}
    draw = random.Random(0)
    texts, planted = list(chapters), []
    for target in range(150, 250, 2):
        words = chapters[draw.randrange(100)].split()
        at, length = draw.randrange(max(1, len(words) - 60)), draw.randrange(60, 200)
        passage = " ".join(words[at : at + length])
        if len(passage.split()) >= 60 and target not in {row[0] for row in already}:
            texts[target] = f"{chapters[target]}\n{passage}"
            planted.append((target, passage))
    found = decide(step, texts, tmp_path)[0]
    outcomes = step.apply(Batch(documents(texts)), found)
    assert len(planted) > 30
    for target, passage in planted:
        outcome = outcomes[target]
        assert isinstance(outcome, Edit)
        assert outcome.text is not None
        assert passage not in outcome.text
        assert outcome.text.rstrip() == chapters[target]
    assert {tuple(row) for row in found.tolist() if row[0] not in dict(planted)} == already


def test_less_than_the_shortest_passage_is_left_alone(tmp_path: Path) -> None:
    passage = " ".join(f"word{index}" for index in range(49))
    assert cut(Substrings(), [f"one {passage} two", f"three {passage} four"], tmp_path) == [None, None]


def test_a_cut_is_counted_and_leaves_the_rest_as_it_was(tmp_path: Path) -> None:
    passage = " ".join(f"word{index}" for index in range(50))
    outcomes = cut(
        Substrings(), [passage, f"A text\n\twith  {passage}\n\nand its end, unchanged.\n"], tmp_path
    )
    changes = {"repeated_passages": 1, "repeated_chars": len(passage) + 2}
    assert outcomes == [None, Edit("A text\n\twith\n\nand its end, unchanged.\n", changes=changes)]


def test_white_space_between_words_does_not_hide_a_repetition(tmp_path: Path) -> None:
    words = [f"word{index}" for index in range(50)]
    step = Substrings(min_chars=0)
    assert cut(step, [" ".join(words), "\n\n".join(words)], tmp_path)[1] == Edit(
        "", changes={"repeated_passages": 1, "repeated_chars": len("\n\n".join(words))}
    )


def test_all_occurrences_go_where_none_is_kept(tmp_path: Path) -> None:
    passage = " ".join(f"word{index}" for index in range(50))
    kept = cut(
        Substrings(keep="none"),
        [f"{passage} - the rest of the first one", f"And so begins {passage}"],
        tmp_path,
    )
    assert isinstance(kept[0], Edit)
    assert kept[0].text == "- the rest of the first one"
    assert kept[1] == Drop("short_without_repeats", len("And so begins"))


def test_a_mostly_repeated_document_goes_if_asked(tmp_path: Path) -> None:
    passage = " ".join(f"word{index}" for index in range(50))
    texts = [passage, f"{passage} but here are a few more words that no one else has"]
    dropped = cut(Substrings(max_share=0.5), texts, tmp_path)[1]
    assert isinstance(dropped, Drop)
    assert dropped.reason == "mostly_repeated"
    assert dropped.value == pytest.approx((len(passage) + 1) / len(texts[1]))


def test_a_text_of_one_word_over_and_over_keeps_its_beginning(tmp_path: Path) -> None:
    outcome = cut(Substrings(words=5, min_chars=0), ["ha " * 20], tmp_path)[0]
    assert outcome == Edit("ha ", changes={"repeated_passages": 1, "repeated_chars": 57})


def test_chinese_counts_every_character_as_a_word(tmp_path: Path) -> None:
    passage = "".join(chr(0x4E00 + index) for index in range(50))
    outcome = cut(
        Substrings(), [passage, f"起初，{passage}。这里是另外的一段话，与前面的都不相同。"], tmp_path
    )[1]
    assert isinstance(outcome, Edit)
    assert outcome.text == "起初，。这里是另外的一段话，与前面的都不相同。"


spaced = st.lists(
    st.tuples(st.sampled_from(["word", "7", "漢", "é", "-", "Is"]), st.text(" \n\t", min_size=1, max_size=3))
)


@given(spaced, st.lists(st.integers(0, 30), max_size=6, unique=True))
@settings(max_examples=200, deadline=None)
def test_cutting_leaves_exactly_the_other_words(spaced: list[tuple[str, str]], bounds: list[int]) -> None:
    text, words = "".join(word + gap for word, gap in spaced), [word for word, _ in spaced]
    bounds = sorted(bound for bound in bounds if bound <= len(words))
    cuts = [(0, first, end) for first, end in zip(bounds[::2], bounds[1::2], strict=False)]
    (after,) = cut_words(Packed.of([text]), np.array(cuts, np.int64).reshape(-1, 3))
    gone = {index for _, first, end in cuts for index in range(first, end)}
    assert after.split() == [word for index, word in enumerate(words) if index not in gone]
    assert cuts or after == text


def test_words_that_a_cut_brings_together_stay_apart() -> None:
    packed = Packed.of(["one-two-three", "一二三", "one\n\ntwo three"])
    cuts = np.array([(0, 1, 4), (1, 1, 2), (2, 1, 2)], np.int64)
    assert cut_words(packed, cuts) == ["one three", "一三", "one\n\nthree"]
