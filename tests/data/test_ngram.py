"""The stage `data ngram`: documents, or an ARPA file, to a model folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luban.data import ngram
from luban.data.ngram import Config
from luban.data.step import Packed
from luban.errors import ConfigError, DataError
from luban.ngram.model import open_model
from tests.ngram.test_kneser_ney import bible


def documents(folder: Path, **files: list[str]) -> Path:
    """A documents folder with one text per line of each file."""
    folder.mkdir()
    for name, texts in files.items():
        rows = [json.dumps({"id": str(number), "text": text}) for number, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def gospel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return documents(tmp_path_factory.mktemp("text") / "mark", train=bible("Mark"), holdout=bible("Ruth"))


def test_a_model_finds_text_likelier_than_its_words_shuffled(gospel: Path, tmp_path: Path) -> None:
    results = ngram.run(Config(data=(gospel,), out=tmp_path / "model", order=3, words="spaces"))
    model = open_model(tmp_path / "model")
    mixed = [" ".join(sorted(verse.split())) for verse in bible("Ruth")]
    good, bad = model.score(Packed.of(["\n".join(bible("Ruth")), "\n".join(mixed)])).perplexity
    assert good < bad / 2
    assert results["held_out"]["perplexity"] == pytest.approx(good, rel=1e-3)
    assert results["documents"] == len(bible("Mark"))
    assert results["held_out"]["unknown"] == pytest.approx(371 / 2566, abs=1e-4)
    assert results["words"] == sum(len(verse.split()) for verse in bible("Mark"))


def test_a_converted_arpa_file_scores_as_the_model_it_came_from(gospel: Path, tmp_path: Path) -> None:
    ngram.run(Config(data=(gospel,), out=tmp_path / "a", order=3, arpa=True))
    ngram.run(Config(data=(tmp_path / "a" / "model.arpa",), out=tmp_path / "b"))
    a, b = open_model(tmp_path / "a"), open_model(tmp_path / "b")
    texts = Packed.of(bible("Ruth"))
    assert b.score(texts).logp == pytest.approx(a.score(texts).logp, abs=1e-4)
    assert (b.words, b.normalise) == ("spaces", False)


def test_the_same_documents_give_the_same_bytes_whatever_the_memory(gospel: Path, tmp_path: Path) -> None:
    for out, memory in (("a", 2000), ("b", 1)):
        ngram.run(Config(data=(gospel,), out=tmp_path / out, order=4, memory_mb=memory))
    assert (tmp_path / "a" / "table.npy").read_bytes() == (tmp_path / "b" / "table.npy").read_bytes()


def test_normalising_joins_cases_and_numbers(tmp_path: Path) -> None:
    text = documents(tmp_path / "text", train=["In 1999 he came", "in 2024 HE came"])
    for normalise, words in ((True, 4), (False, 8)):
        out = tmp_path / str(normalise)
        results = ngram.run(Config(data=(text,), out=out, order=2, normalise=normalise))
        assert results["ngrams"][0] - 3 == words - (not normalise)  # "came" is written alike


def test_documents_without_a_word_are_refused(tmp_path: Path) -> None:
    text = documents(tmp_path / "text", train=[" \n", ""])
    with pytest.raises(DataError, match="no word"):
        ngram.run(Config(data=(text,), out=tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_an_arpa_file_stands_alone(gospel: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stands alone"):
        ngram.run(Config(data=(gospel, Path("x.arpa")), out=tmp_path / "model"))
