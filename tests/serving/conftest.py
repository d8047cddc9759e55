"""One server for the tests that leave it as they found it; one thread, since the models are so small."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.browser import chromium
from tests.serving.running import Running, running, tiny_lm
from tests.serving.studio_page import REFUSED, ShowStudio, Studio, endless_server, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def server(one_thread: None) -> Iterator[Running]:  # noqa: ARG001 - it must come first
    """A server without keys; at its end no page may be lost."""
    with running(limits={"max_logprobs": 384}) as here:
        yield here


@pytest.fixture(scope="package")
def roomy(one_thread: None) -> Iterator[Running]:  # noqa: ARG001 - it must come first
    """A server whose model has room for tools and forms."""
    with running(tiny_lm(context=1024), pages=1024) as here:
        yield here


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for a file's tests, since two at once in a process disturb each other."""
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def endless(one_thread: None) -> Iterator[Running]:  # noqa: ARG001 - it must come first
    """A server whose answers are as long as they may be."""
    with endless_server() as here:
        yield here


@pytest.fixture
def show_studio(browser: Browser, endless: Running) -> Iterator[ShowStudio]:
    """Opens the chat page as a new visitor; complaints of the browser fail the test."""
    opened: list[Studio] = []

    def shown(**context: Any) -> Studio:
        opened.append(visit(browser, endless.url, **context))
        return opened[-1]

    yield shown
    for studio in opened:
        studio.page.context.close()
        assert not [said for said in studio.complaints if REFUSED not in said]
