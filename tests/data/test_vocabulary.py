import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luban.data import vocabulary
from luban.data.document import Document
from luban.errors import ConfigError, TokenizerError
from luban.folder import AlreadyDone
from luban.tokenizers import files
from tests import tiny


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, texts in {"train": tiny.TEXTS, "holdout": ["secretsecret " * 50]}.items():
        rows = [Document(id=f"{name}:{n}", text=text, source="tiny") for n, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(row.to_json() for row in rows), encoding="utf-8")
    return folder


def trained(documents: Path, out: Path, **options: Any) -> dict[str, Any]:
    return vocabulary.run(vocabulary.Config(data=(documents,), out=out, **{"vocab": 384, **options}))


def test_the_folder_holds_the_tokenizer_of_the_training_part(documents: Path, tmp_path: Path):
    results = trained(documents, tmp_path / "out")
    tokenizer = files.load(tmp_path / "out")
    assert tokenizer.to_json() == tiny.tokenizer().to_json()
    assert results["vocab"] == results["vocab_asked"] == tokenizer.vocab_size == 384
    assert not any("secret" in token for token in results["longest"])


def test_bytes_per_token_is_bytes_of_text_over_its_tokens(documents: Path, tmp_path: Path):
    results = trained(documents, tmp_path / "out")
    size = sum(len(text.encode()) for text in tiny.TEXTS)
    tokens = sum(len(tiny.tokenizer().encode(text)) for text in tiny.TEXTS)
    assert results["bytes"] == results["sample_bytes"] == size
    assert results["bytes_per_token"] == round(size / tokens, 3)


def test_longest_tokens_come_longest_first(documents: Path, tmp_path: Path):
    longest = trained(documents, tmp_path / "out")["longest"]
    assert [len(token) for token in longest] == sorted(map(len, longest), reverse=True)
    assert " capital" in longest


def test_reading_stops_after_max_bytes(documents: Path, tmp_path: Path):
    results = trained(documents, tmp_path / "out", max_bytes=50)
    # The first text has 44 bytes, so the second is still begun, and taken whole.
    assert (results["documents"], results["capped"]) == (2, True)
    assert results["bytes"] == sum(len(text.encode()) for text in tiny.TEXTS[:2])


def test_too_little_text_is_told(documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    results = trained(documents, tmp_path / "out", vocab=5000)
    assert results["vocab"] < 5000
    assert f"only {results['vocab']} of 5,000 ids" in capsys.readouterr().err


def test_pattern_and_frequency_change_the_vocabulary(documents: Path, tmp_path: Path):
    trained(documents, tmp_path / "gpt2", pattern="gpt2")
    assert files.load(tmp_path / "gpt2").to_json() != tiny.tokenizer().to_json()
    assert trained(documents, tmp_path / "rare", min_frequency=9)["vocab"] < 384


def test_a_finished_run_is_not_done_again(documents: Path, tmp_path: Path):
    trained(documents, tmp_path / "out")
    with pytest.raises(AlreadyDone):
        trained(documents, tmp_path / "out")


def test_nothing_is_left_of_a_run_that_fails(documents: Path, tmp_path: Path):
    with pytest.raises(TokenizerError, match="at least 259"):
        trained(documents, tmp_path / "out", vocab=100)
    assert [path.name for path in tmp_path.iterdir()] == ["documents"]


def test_the_page_shows_the_figures(documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    results = trained(documents, tmp_path / "out")
    vocabulary.show(results)
    page = capsys.readouterr().out
    assert f"bytes per token  {results['bytes_per_token']}" in page
    assert json.dumps(results)


@pytest.fixture
def two_sources(tmp_path: Path) -> Path:
    """English of one source, Chinese of another."""
    path = tmp_path / "mixed.jsonl"
    texts = [("web", "en", "The builder made 1234 tools."), ("book", "zh", "鲁班是木匠，他做工具。")]
    rows = [
        Document(id=f"{source}:{n}", text=text, source=source, meta={"language": language}).to_json()
        for n in range(20)
        for source, language, text in texts
    ]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_the_report_tells_languages_and_sources_apart(two_sources: Path, tmp_path: Path):
    results = trained(two_sources, tmp_path / "out", vocab=400)
    tokenizer = files.load(tmp_path / "out")
    for group, name, text in (
        ("by_language", "zh", "鲁班是木匠，他做工具。"),
        ("by_source", "web", "The builder made 1234 tools."),
    ):
        figures = results[group][name]
        assert figures["documents"] == 20
        assert figures["bytes_per_token"] == round(len(text.encode()) / len(tokenizer.encode(text)), 3)
    assert list(results["by_language"]) == ["zh", "en"]  # most bytes first


def test_words_per_token_count_chinese_characters_one_by_one(two_sources: Path, tmp_path: Path):
    results = trained(two_sources, tmp_path / "out", vocab=400, type="words", min_frequency=1)
    # Five words and a full stop; nine characters and two signs.
    assert results["by_language"]["en"]["tokens_per_word"] == round(6 / 5, 3)
    assert results["by_language"]["zh"]["tokens_per_word"] == round(11 / 9, 3)


def test_unknown_tokens_and_texts_not_given_back_are_counted(two_sources: Path, tmp_path: Path):
    results = trained(two_sources, tmp_path / "out", vocab=4 + 7, type="words", min_frequency=1)
    # 4 special tokens and 7 of the 17 words and signs, all as frequent: the 6 English ones and one Chinese.
    assert results["unknown_rate"] == round(10 / 17, 6)
    assert (results["changed"], results["sample_documents"]) == (20, 40)


def test_the_use_of_the_vocabulary_by_hand():
    from luban.tokenizers.report import vocabulary_use

    # 20 tokens: 10 + 8 = 18 are 90 %.
    assert vocabulary_use(np.array([1, 10, 0, 8, 1])) == {"ids": 5, "used": 4, "once": 2, "for_90_percent": 2}
    assert vocabulary_use(np.zeros(3, int))["for_90_percent"] == 0


def test_digits_and_spaces_are_told(tmp_path: Path):
    code = tmp_path / "code.jsonl"
    text = "def f():\n        return 123456\n" * 9
    code.write_text(Document(id="a", text=text, source="c").to_json(), encoding="utf-8")
    results = trained(code, tmp_path / "out", vocab=290)
    # Llama 3's split: digits in threes; a gap leaves its last space to the word behind it.
    assert (results["longest_digits"], results["longest_spaces"]) == (3, 7)
    assert results["spellings"]["digits"]["1234567"][0] == "123"


def test_the_report_stands_in_the_folder_as_json_and_page(documents: Path, tmp_path: Path):
    results = trained(documents, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert kept == {name: value for name, value in results.items() if name != "seconds"}
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "<td>bytes_per_token</td>" in page
    assert "http" not in page


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece", "words"])
def test_every_kind_is_learnt_by_the_stage(kind: str, documents: Path, tmp_path: Path):
    results = trained(documents, tmp_path / "out", type=kind, vocab=200)
    assert results["type"] == kind
    assert files.load(tmp_path / "out").unk_id is not None


def test_a_setting_that_a_kind_does_not_have_is_refused(documents: Path, tmp_path: Path):
    for changes, message in (
        ({"type": "words", "pattern": "gpt2"}, "'words' splits by its own rule"),
        ({"type": "unigram", "min_frequency": 9}, "'unigram' has no such threshold"),
    ):
        with pytest.raises(ConfigError, match=message):
            trained(documents, tmp_path / "out", **changes)


def test_a_sample_holds_some_of_every_source(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vocabulary, "GROUP_BYTES", 10)
    many = [Document(id=str(n), text="12345678", source="big" if n < 50 else "late") for n in range(60)]
    used = vocabulary.Capped(many, 0)
    assert len(list(used)) == 60
    # Each group takes documents until it has 10 bytes: two of 8.
    assert [sample.source for sample in used.samples] == ["big", "big", "late", "late"]
