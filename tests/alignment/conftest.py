"""A fixture for runs whose picture nobody looks at."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the curves would take longer than a tiny run."""
    monkeypatch.setattr("luban.alignment.rounds.save_page", lambda out: out)
