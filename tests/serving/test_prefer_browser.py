"""The page of `luban prefer` in a real browser: keys, taps, two columns or one, light and dark."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from luban.serving.votes import PREFERENCES, UNDECIDED
from tests.browser import chromium
from tests.serving.prefer_page import QUESTIONS, ScriptedLM, pairing_of, rows, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
DESKTOP, PHONE = {"width": 1200, "height": 800}, {"width": 360, "height": 740}
READY = "button[data-key='1']:enabled"
NOTICE = "#notice.shown"
Show = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Show]:
    """Serves a pairing over the test's folder and opens its page; complaints of the browser fail the test."""
    complaints: list[str] = []
    with contextlib.ExitStack() as stack:

        def shown(*models: ScriptedLM, settings: dict[str, Any] | None = None, **context: Any) -> Page:
            there = stack.enter_context(served(pairing_of(tmp_path, *models, **(settings or {}))))
            told: dict[str, Any] = {"viewport": DESKTOP} | context
            opened = browser.new_context(**told)
            stack.callback(opened.close)
            page = opened.new_page()
            page.on("console", lambda said: complaints.append(said.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda asked: _from(there.url, asked.url, complaints))
            page.goto(there.url)
            return page

        yield shown
    assert not complaints


def _from(home: str, url: str, complaints: list[str]) -> None:
    if not url.startswith((home, "data:")):
        complaints.append(f"asked for {url}")


def test_a_session_by_keyboard_leaves_the_rows_that_were_meant(show: Show, tmp_path: Path) -> None:
    page = show()
    page.wait_for_selector(READY)
    assert page.inner_text("#question") == "Which answer is more helpful?"
    page.keyboard.press("5")
    page.wait_for_selector(f"{NOTICE}:has-text('B is clearly more helpful')")
    page.wait_for_selector(f"{READY} >> visible=true")
    page.keyboard.press("s")
    page.wait_for_selector("#count:has-text('2 of 3 prompts · 1 preferred · 1 undecided')")
    page.keyboard.press("u")
    page.wait_for_selector("#count:has-text('1 of 3 prompts · 1 preferred · 0 undecided')")
    assert QUESTIONS[1] in page.inner_text("#prompt")
    page.keyboard.press("1")
    page.wait_for_selector(f"#prompt:has-text('{QUESTIONS[2]}')")
    page.wait_for_selector(READY)
    page.keyboard.press("t")
    page.wait_for_selector("#nothing:has-text('All prompts have been asked')")
    kept = rows(tmp_path / PREFERENCES)
    assert [(row["chosen_stood"], row["strength"]) for row in kept] == [("b", 2), ("a", 3)]
    assert [row["verdict"] for row in rows(tmp_path / UNDECIDED)] == ["same"]


def test_the_models_are_named_after_the_vote_and_not_before(show: Show) -> None:
    page = show(ScriptedLM("oak", says="one"), ScriptedLM("elm", says="two"))
    page.wait_for_selector(READY)
    assert "oak" not in page.content()
    page.keyboard.press("2")
    page.wait_for_selector(f"{NOTICE}:has-text('oak')")
    assert "elm" in page.inner_text("#notice")


def test_harmless_asks_for_the_more_harmful_answer_and_rejects_it(show: Show, tmp_path: Path) -> None:
    page = show(settings={"mode": "harmless"})
    page.wait_for_selector(READY)
    assert page.inner_text("#question") == "Which answer is more harmful?"
    harmful = page.inner_text("#a .text").strip()
    page.click("#a button[data-strength='3']")
    page.wait_for_selector(f"{NOTICE}:has-text('A is much more harmful')")
    (row,) = rows(tmp_path / PREFERENCES)
    assert row["rejected"][0]["content"] == harmful


def test_answers_grow_on_the_page_and_cannot_be_voted_on_before_they_end(show: Show) -> None:
    page = show(ScriptedLM("oak", says="one two three four five", pause_s=0.5), ScriptedLM("elm"))
    page.wait_for_selector("#a.writing .text:has-text('one'), #b.writing .text:has-text('one')")
    assert page.is_disabled("button[data-key='1']")
    page.keyboard.press("1")
    assert page.inner_text("#count").endswith("0 preferred · 0 undecided")
    page.wait_for_selector(READY)
    assert page.get_attribute("#a", "aria-busy") == "false"


def test_typing_a_prompt_asks_it_and_votes_for_nothing(show: Show, tmp_path: Path) -> None:
    page = show(settings={"questions": ()})
    page.wait_for_selector("#nothing:has-text('Ask something')")
    page.focus("#typed")
    page.keyboard.type("Is 1 a but 2 b, s or u?")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#prompt:has-text('Is 1 a but 2 b, s or u?')")
    page.wait_for_selector(READY)
    assert page.input_value("#typed") == ""
    page.keyboard.press("6")
    page.wait_for_selector(NOTICE)
    assert rows(tmp_path / PREFERENCES)[0]["prompt"][0]["content"] == "Is 1 a but 2 b, s or u?"


def test_what_a_model_writes_is_text_and_never_markup(show: Show) -> None:
    nasty = "<img src=x onerror=alert(1)> <b>bold</b> & 鲁班"
    page = show(ScriptedLM("oak", says=nasty), ScriptedLM("elm"))
    page.wait_for_selector(READY)
    assert nasty in page.inner_text("#answers")
    assert page.locator("#answers img, #answers b").count() == 0


def test_a_reload_shows_the_same_pair_and_an_answer_that_was_cut_off(show: Show) -> None:
    page = show(ScriptedLM("oak", ends="length"), ScriptedLM("elm"))
    page.wait_for_selector(READY)
    before = page.inner_text("#answers")
    assert page.locator(".cut:visible").count() == 1
    page.reload()
    page.wait_for_selector(READY)
    assert page.inner_text("#answers") == before


@pytest.mark.parametrize(("viewport", "columns"), [(DESKTOP, 2), (PHONE, 1)], ids=["desktop", "phone"])
def test_answers_stand_side_by_side_or_on_a_phone_below_each_other(
    viewport: dict[str, int], columns: int, show: Show, tmp_path: Path
) -> None:
    page = show(ScriptedLM("oak", says="word" * 40), ScriptedLM("elm"), viewport=viewport, has_touch=True)
    page.wait_for_selector(READY)
    a, b = (page.locator(f"#{side}").bounding_box() for side in "ab")
    assert a
    assert b
    assert (a["y"] == b["y"], b["x"] > a["x"] + a["width"]) == (
        (True, True) if columns == 2 else (False, False)
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    page.tap("#b button[data-strength='1']")
    page.wait_for_selector(NOTICE)
    assert rows(tmp_path / PREFERENCES)[0]["strength"] == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_as_light_or_dark_as_the_machine_and_can_be_read(scheme: str, show: Show) -> None:
    page = show(color_scheme=scheme)
    page.wait_for_selector(READY)
    for selector, behind in (
        ("#question", "body"),
        ("#a .text", "#a"),
        ("#a .claim", "#a"),
        ("#count", "body"),
    ):
        ink, paper = _light(page, selector, "color"), _light(page, behind, "backgroundColor")
        assert (ink > paper) == (scheme == "dark")
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5  # WCAG 2.2, 1.4.3


def _light(page: Page, selector: str, name: str) -> float:
    """The relative luminance of a colour, as WCAG 2.2 defines it."""
    told = page.eval_on_selector(selector, f"element => getComputedStyle(element).{name}")
    parts = [int(part) / 255 for part in told.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_server_that_is_gone_is_told(browser: Browser, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    page = browser.new_context().new_page()
    with served(pairing_of(folder)) as there:
        page.goto(there.url)
        page.wait_for_selector(READY)
    page.keyboard.press("1")
    page.wait_for_selector(f"{NOTICE}:has-text('does not answer')")
    page.context.close()
