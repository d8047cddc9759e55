"""A thousand requests of all kinds at once, with too few pages: nothing is lost, mixed up or left behind."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.serving.mixed import ask_all, make
from tests.serving.running import running


@pytest.mark.slow
def test_a_thousand_mixed_requests_each_get_what_they_get_alone() -> None:
    generator = random.Random(0)
    asks = [make(generator) for _ in range(1000)]
    with running(pages=20, seats=8, host_pages=24, policy="mlfq") as server:
        report = asyncio.run(ask_all(server.url, asks, at_once=24))
        assert report.wrong == []
        assert report.kinds.total() == 1000
        assert {"left", "200 text", "200 chat", "200 vector", "200 score", "400 text", "400 chat"} == set(
            report.kinds
        )
        assert server.settled()
        stats = server.served.engine.stats()
        assert stats.aborted > 10
        assert stats.swapped_out + stats.recomputed > 0
        assert stats.host_pages == 0
        assert not server.server._state.inside
