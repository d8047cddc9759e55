"""What the variants of a corpus hold, and how often a training goes through it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.ablate.variants import Corpus, Variant, mixture, named_paths, part, repeated, survey
from luban.data.document import Document
from luban.data.sources import read_documents
from luban.errors import ConfigError


def write(path: Path, texts: list[str]) -> Path:
    lines = [Document(id=str(i), text=text, source="s").to_json() for i, text in enumerate(texts)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def texts_in(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text("utf-8").split("\n")[:-1]]


def corpus(tokens: int) -> Corpus:
    return Corpus(Path("shards"), {"tokens": tokens})


def test_paths_are_named() -> None:
    assert named_paths(["raw:a/b", "clean:c"]) == {"raw": Path("a/b"), "clean": Path("c")}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (["runs/raw"], "'runs/raw' is no NAME:PATH"),
        (["a/b:c"], "'a/b:c' is no NAME:PATH"),
        (["a:"], "'a:' is no NAME:PATH"),
        (["a:x", "a:y"], "two variants are called 'a'"),
        ([], "nothing to compare"),
    ],
)
def test_a_path_without_a_name_of_its_own_is_refused(entries: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match="setting 'data'") as error:
        named_paths(entries)
    assert said in str(error.value)


def test_a_mixture_goes_through_each_corpus_by_its_share() -> None:
    mixed = mixture("raw:1,clean:3", ["raw", "clean"])
    # of 800 tokens a quarter is raw: 200 of 100, so twice; 600 of 1200 are clean
    assert mixed.epochs({"raw": corpus(100), "clean": corpus(1200)}, 800) == {"raw": 2.0, "clean": 0.5}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("raw:0.5,clena:0.5", "did you mean 'clean'"),
        ("raw:0.5", "mixes nothing"),
        ("raw:x,clean:1", "the weight 'x'"),
        ("raw:0,clean:1", "the weight '0'"),
        ("raw:inf,clean:1", "the weight 'inf'"),
        ("raw,clean", "the weight ''"),
    ],
)
def test_a_mixture_that_says_no_shares_is_refused(entry: str, said: str) -> None:
    with pytest.raises(ConfigError, match="setting 'mixtures'") as error:
        mixture(entry, ["raw", "clean"])
    assert said in str(error.value)


def test_a_repeated_part_comes_as_often_as_asked_for() -> None:
    variant = repeated("clean", 8, 0.5)
    # half of 16,000 tokens from 1,000: 8 times; the other half from 10,000
    corpora = {"clean-x8-few": corpus(1000), "clean-x8-others": corpus(10_000)}
    assert variant == Variant("clean-x8", {"clean-x8-few": 0.5, "clean-x8-others": 0.5})
    assert variant.epochs(corpora, 16_000) == {"clean-x8-few": 8.0, "clean-x8-others": 0.8}


def test_a_share_of_one_leaves_only_the_repeated_part() -> None:
    assert repeated("clean", 2, 1.0).parts == {"clean-x2-few": 1.0}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), min_size=1, max_size=30, unique=True),
       st.floats(0, 600))  # fmt: skip
def test_both_parts_are_the_corpus_and_the_first_is_as_near_to_its_size_as_whole_documents_allow(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], few_bytes: float
) -> None:
    folder = tmp_path_factory.mktemp("part")
    source = write(folder / "all.jsonl", texts)
    few, others = folder / "few.jsonl", folder / "others.jsonl"
    part(source, few, others, few_bytes=few_bytes)
    assert sorted(texts_in(few) + texts_in(others)) == sorted(texts)
    assert texts_in(few)
    size = sum(len(text.encode()) for text in texts_in(few))
    largest = max(len(text.encode()) for text in texts)
    total = sum(len(text.encode()) for text in texts)
    assert abs(size - min(few_bytes, total)) <= largest


def test_a_smaller_part_lies_in_a_larger_one(tmp_path: Path) -> None:
    source = write(tmp_path / "all.jsonl", [f"text number {number}" for number in range(100)])
    for name, size in (("small", 100), ("large", 700)):
        part(source, tmp_path / f"{name}.jsonl", tmp_path / "others.jsonl", few_bytes=size)
    small, large = (set(texts_in(tmp_path / f"{name}.jsonl")) for name in ("small", "large"))
    assert small < large


def test_a_survey_counts_what_is_distinct_and_what_is_held_out(tmp_path: Path) -> None:
    source = write(tmp_path / "all.jsonl", ["four", "four", "é"])
    held = [Document(id=text, text=text, source="h") for text in ("é", "new")]
    facts = survey(source, held)
    assert facts == {"documents": 3, "bytes": 10, "distinct_bytes": 6, "held_out_seen": 1}
    assert len(list(read_documents([source]))) == 3
