"""The chat page in a real browser, over a real server, for the tests: what a person does there, and what is then so."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.serving.running import Running, running, tiny_lm

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Request, Route

DESKTOP, PHONE = {"width": 1400, "height": 850}, {"width": 390, "height": 844}
REFUSED = "Failed to load resource"
"""What a browser says of every answer that is not a 200, and nobody can keep it from saying."""


@contextlib.contextmanager
def endless_server(**settings: Any) -> Iterator[Running]:
    """A server whose model writes until it has no more tokens, so that a test says how long an answer is."""
    lm = tiny_lm(context=1024)
    lm.stop_ids = frozenset()
    with running(lm, pages=1024, **settings) as server:
        yield server


@dataclass
class Studio:
    """The page of one visitor."""

    page: Page
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """What was asked of /v1/chat/completions, in order."""
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", self._note)

    def _note(self, request: Request) -> None:
        if request.url.endswith("/v1/chat/completions"):
            self.bodies.append(json.loads(request.post_data or "null"))

    def open(self, url: str) -> None:
        """Go there and wait for the models."""
        self.page.goto(url)
        self.page.wait_for_selector("#model option", state="attached")

    def knobs(self, **values: object) -> None:
        """Turn knobs; an empty text empties one."""
        for name, value in values.items():
            self.page.fill(f"#drawing [name='{name}']", str(value))

    def send(self, text: str) -> None:
        self.page.fill("#typed", text)
        self.page.press("#typed", "Enter")

    def ask(self, text: str) -> str:
        """The whole answer to `text`."""
        self.send(text)
        return self.answer()

    def answer(self) -> str:
        """The last answer once it has ended, as it was written."""
        self.page.wait_for_selector("#send:visible")
        return self.messages()[-1]["content"]

    def turns(self, role: str) -> Locator:
        return self.page.locator(f".turn[data-role='{role}']")

    def act(self, role: str, label: str, place: int = -1) -> None:
        """Press a button of a message, by default of the last one."""
        self.turns(role).nth(place).get_by_role("button", name=label).click()

    def kept(self) -> dict[str, Any]:
        """The conversation that is shown, as the browser keeps it."""
        text = self.page.evaluate("localStorage.getItem('luban.chat.' + location.hash.slice(1))")
        return json.loads(text) if text else {}

    def messages(self) -> list[dict[str, Any]]:
        return self.kept().get("messages", [])

    def titles(self) -> list[str]:
        return self.page.locator("#list .title").all_inner_texts()

    def trouble(self) -> str:
        """What the box of troubles says, once it says something."""
        return self.page.inner_text("#trouble p")


ShowStudio = Callable[..., Studio]


def visit(browser: Browser, url: str, **context: Any) -> Studio:
    """A new visitor at `url`, whose browser's context is closed by the caller."""
    told: dict[str, Any] = {"viewport": DESKTOP} | context
    studio = Studio(browser.new_context(**told).new_page())
    studio.open(url)
    return studio


def stream(pieces: Sequence[str], *, done: bool = True) -> str:
    """The events of an answer in these pieces."""
    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"})
    events = [json.dumps({"choices": [choice]}) for choice in choices]
    return "".join(f"data: {event}\n\n" for event in [*events, *(["[DONE]"] if done else [])])


def script(studio: Studio, *pieces: str, done: bool = True) -> None:
    """Let every answer be these pieces, whatever the model would write."""

    def tell(route: Route) -> None:
        route.fulfill(content_type="text/event-stream", body=stream(pieces, done=done))

    studio.page.route("**/v1/chat/completions", tell)
