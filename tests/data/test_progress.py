"""Long streams say on stderr that they are alive, and pass on everything."""

from __future__ import annotations

import pytest

from luban.data.progress import announce


def test_items_pass_unchanged_and_are_counted_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(announce("abc", stage="data prepare", noun="documents", every_s=0)) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines[:2]] == [f"data prepare: {n} documents" for n in (1, 2)]


def test_a_short_stream_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(announce([1], stage="s", noun="n")) == [1]
    assert capsys.readouterr().err == ""
