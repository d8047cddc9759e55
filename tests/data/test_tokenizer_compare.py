from pathlib import Path
from typing import Any

import pytest

from luban.data import tokenizer_compare
from luban.data.document import Document
from luban.errors import DataError
from luban.tokenizers.train import train
from tests import tiny

TEXTS = ["The tools were good.", "鲁班造锯", "the  tools"]


@pytest.fixture
def places(tmp_path: Path) -> tuple[tuple[Path, ...], Path]:
    """Two tokenizers and documents of two sources."""
    tiny.tokenizer().save(tmp_path / "bytes")
    train(tiny.TEXTS, kind="words", vocab=100).save(tmp_path / "words")
    rows = [Document(id=str(n), text=text, source=f"s{n % 2}").to_json() for n, text in enumerate(TEXTS)]
    (tmp_path / "docs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return (tmp_path / "bytes", tmp_path / "words"), tmp_path / "docs.jsonl"


def compared(places: tuple[tuple[Path, ...], Path], **changes: Any) -> dict[str, Any]:
    tokenizers, data = places
    return tokenizer_compare.run(tokenizer_compare.Config(tokenizers=tokenizers, data=(data,), **changes))


def test_all_tokenizers_see_the_same_documents(places: tuple[tuple[Path, ...], Path]):
    results = compared(places)
    size = sum(len(text.encode()) for text in TEXTS)
    assert (results["documents"], results["bytes"]) == (3, size)
    for figures in results["tokenizers"].values():
        assert (figures["documents"], figures["bytes"]) == (3, size)
        assert figures["by_source"]["s1"]["bytes"] == len(TEXTS[1].encode())


def test_figures_by_hand(places: tuple[tuple[Path, ...], Path]):
    whole, words = compared(places)["tokenizers"].values()
    tokens = sum(len(tiny.tokenizer().encode(text)) for text in TEXTS)
    assert (whole["tokens"], whole["unknown_rate"], whole["changed"]) == (tokens, 0, 0)
    # Words: The tools were good . | 鲁 班 [UNK] [UNK] | the tools. Two spaces and two characters do not come back,
    # and neither does a text of Chinese characters, which are parted by spaces.
    assert (words["tokens"], words["unknown_rate"]) == (11, round(2 / 11, 6))
    assert words["changed"] == 2
    assert words["tokens_per_word"] == round(11 / 10, 3)


def test_reading_stops_after_max_bytes(places: tuple[tuple[Path, ...], Path]):
    results = compared(places, max_bytes=1)
    assert (results["documents"], results["capped"]) == (1, True)


def test_the_page_is_a_table(places: tuple[tuple[Path, ...], Path], capsys: pytest.CaptureFixture[str]):
    tokenizer_compare.show(compared(places))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:2] == ["ids", "used"]
    assert [line.split()[0] for line in lines[3:5]] == ["bytes", "words"]
    assert "bytes per token by source" in lines


def test_names_are_as_short_as_they_can_be():
    assert tokenizer_compare.short_names(["/a/x/tok", "/b/x/tok"]) == {
        "/a/x/tok": "a/x/tok",
        "/b/x/tok": "b/x/tok",
    }


def test_no_text_is_refused(places: tuple[tuple[Path, ...], Path]):
    places[1].write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="no text"):
        compared(places)
