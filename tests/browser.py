"""A real browser for the tests of pages: Debian's Chromium without a window, driven by playwright."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
"""Switches without which it needs a user of its own, a screen, or hosts on the internet."""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that is closed at the end; where there is none the test is skipped, and the summary says why."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        _skip("there is no Chromium here, so the pages were not tried in a browser: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _skip(
            "playwright is not installed, so the pages were not tried in a browser: pip install 'luban[dev]'"
        )
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


def _skip(reason: str) -> NoReturn:
    warnings.warn(reason, stacklevel=3)
    pytest.skip(reason)
