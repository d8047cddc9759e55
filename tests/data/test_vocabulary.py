import json
from pathlib import Path
from typing import Any

import pytest

from luban.data import vocabulary
from luban.data.document import Document
from luban.errors import TokenizerError
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
