"""The chat page in a real browser: what is kept, how it looks, what is told when something goes wrong."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from luban.data.row_formats import to_row
from tests.serving.running import Running, running, tiny_lm, wait_for
from tests.serving.studio_page import PHONE, REFUSED, ShowStudio, Studio, script, visit
from tests.serving.test_gate import slowly

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
NASTY = "<img src=x onerror=alert(1)> <script>alert(2)</script> [a](javascript:alert(3)) & 鲁班 <b>bold</b>"
ANSWER, QUESTION = ".turn[data-role=assistant]", ".turn[data-role=user] .text"
READ = {
    f"{ANSWER} .text": "body",
    QUESTION: QUESTION,
    f"{ANSWER} .note": "body",
    "small": "#knobs",
    "#send": "#send",
}
"""What is read, and what is behind it."""
LONG = f"{'word' * 60}\n\n```python\n{'x = 1; ' * 40}\n```\n\n- {'item' * 40}\n\n" + "Plain words. " * 60


def test_a_reload_keeps_the_conversation_with_its_probabilities(show_studio: ShowStudio) -> None:
    studio = show_studio()
    studio.knobs(max_tokens=6)
    studio.page.fill("#system", "Be brief.")
    studio.ask("The quick")
    before = studio.page.inner_text("#turns")
    studio.page.reload()
    studio.page.wait_for_selector(".token")
    assert studio.page.inner_text("#turns") == before
    assert studio.page.input_value("#system") == "Be brief."
    assert studio.page.input_value("#knob-max_tokens") == "6"
    studio.page.locator(".token").first.hover()
    assert studio.page.is_visible("#card tr.drawn")


def test_conversations_are_several_and_can_be_named(show_studio: ShowStudio) -> None:
    studio = show_studio()
    script(studio, "ok")
    studio.ask("first question")
    studio.page.click("#new")
    assert studio.turns("user").count() == 0
    studio.ask("second question")
    assert studio.titles() == ["second question", "first question"]
    studio.page.click("#list .title:has-text('first')")
    assert studio.turns("user").locator(".text").all_inner_texts() == ["first question"]
    studio.page.click("#list button:has-text('Rename')")
    studio.page.keyboard.type("On <b>tools</b>")
    studio.page.keyboard.press("Enter")
    assert studio.titles() == ["second question", "On <b>tools</b>"]
    studio.page.go_back()
    assert studio.turns("user").locator(".text").all_inner_texts() == ["second question"]


def test_what_is_deleted_can_be_taken_back_once(show_studio: ShowStudio) -> None:
    studio = show_studio()
    script(studio, "ok")
    studio.ask("first question")
    studio.page.click("#list button:has-text('Delete')")
    assert studio.titles() == []
    studio.page.click("#notice button:has-text('Undo')")
    assert studio.titles() == ["first question"]
    assert studio.turns("user").count() == 1
    studio.page.click("#list button:has-text('Delete')")
    studio.page.reload()
    assert studio.titles() == []


def test_an_exported_conversation_is_a_row_that_sft_reads(show_studio: ShowStudio, tmp_path: Path) -> None:
    studio = show_studio()
    script(studio, "An ", "answer.")
    studio.page.fill("#system", "Be brief.")
    studio.ask("What is it?")
    with studio.page.expect_download() as coming:
        studio.page.click("#list button:has-text('Export')")
    assert coming.value.suggested_filename == "What-is-it.json"
    coming.value.save_as(tmp_path / "chat.json")
    (line,) = (tmp_path / "chat.json").read_text("utf-8").splitlines()
    told = [
        (message["role"], message["content"]) for message in to_row(json.loads(line), where="it").messages
    ]
    assert told == [("system", "Be brief."), ("user", "What is it?"), ("assistant", "An answer.")]


def test_an_answer_goes_on_while_another_conversation_is_shown(
    show_studio: ShowStudio, endless: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly(endless, monkeypatch, 0.02)
    studio = show_studio()
    studio.knobs(max_tokens=40)
    studio.send("first")
    studio.page.wait_for_selector(".turn.writing .token")
    studio.page.click("#new")
    studio.ask("second")
    assert studio.turns("user").locator(".text").all_inner_texts() == ["second"]
    studio.page.click("#list .title:has-text('first')")
    studio.answer()
    assert "40 tokens" in studio.turns("assistant").locator(".note").inner_text()


def test_a_conversation_that_is_deleted_while_it_is_answered_stays_deleted(
    show_studio: ShowStudio, endless: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly(endless, monkeypatch, 0.02)
    studio = show_studio()
    studio.knobs(max_tokens=400)
    studio.send("first")
    studio.page.wait_for_selector(".turn.writing .token")
    studio.page.click("#list button:has-text('Delete')")
    assert endless.settled()
    studio.page.reload()
    assert studio.titles() == []


def test_a_full_storage_drops_older_probabilities_before_words(show_studio: ShowStudio) -> None:
    studio = show_studio()
    studio.knobs(max_tokens=60)
    old = studio.ask("old")
    studio.page.evaluate(
        """() => {
            let text = "x".repeat(1 << 20);
            for (let place = 0; text; place += 1) {
                try { localStorage.setItem(`fill.${place}`, text); } catch { text = text.slice(text.length / 2 + 1); }
            }
        }"""
    )
    studio.page.click("#new")
    studio.knobs(max_tokens=6)
    studio.ask("new")
    assert studio.messages()[-1]["pieces"]
    studio.page.click("#list .title:has-text('old')")
    assert studio.messages()[-1]["content"] == old
    assert "pieces" not in studio.messages()[-1]


def test_whatever_anyone_writes_is_text_and_never_markup(show_studio: ShowStudio) -> None:
    studio = show_studio()
    script(studio, *NASTY, "\n\n```html\n", NASTY, "\n```\n- ", NASTY, f"\n\n# {NASTY}")
    studio.page.fill("#system", NASTY)
    studio.ask(NASTY)
    assert studio.turns("assistant").locator(".text").inner_text().count(NASTY) == 4
    assert studio.turns("user").locator(".text").inner_text() == NASTY
    assert studio.titles() == [NASTY[:60]]
    studio.page.reload()
    studio.page.wait_for_selector(".turn")
    assert studio.page.locator("#middle, #chats").locator("img, script, b, a, iframe").count() == 0


@pytest.mark.parametrize(
    ("source", "nodes"),
    [
        ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
        ("a **b *c* d** `e*f*` _g_", "<p>a <strong>b <em>c</em> d</strong> <code>e*f*</code> <em>g</em></p>"),
        ("2 * 3 * 4 snake_case_name **open", "<p>2 * 3 * 4 snake_case_name **open</p>"),
        ("# Title\ntext", "<h3>Title</h3><p>text</p>"),
        ("- a\n- b\n  - c\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
        ("1. a\n   - b\n2. c", '<ol start="1"><li>a<ul><li>b</li></ul></li><li>c</li></ol>'),
        ("3. a\n\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("1. a\n- b", '<ol start="1"><li>a</li></ol><ul><li>b</li></ul>'),
        (
            "```py\nif x:\n\n  **y**\n```\nz",
            '<pre data-language="py"><code>if x:\n\n  **y**</code></pre><p>z</p>',
        ),
        ("```\nstill open", "<pre><code>still open</code></pre>"),
        ("```", "<pre><code></code></pre>"),
        ("<b>x</b> &amp;", "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp;</p>"),
        ("", ""),
    ],
)
def test_a_little_markdown_is_shown(source: str, nodes: str, plain: Page) -> None:
    shown = plain.evaluate(
        """async (source) => {
            const { render } = await import("/studio/markdown.js");
            const place = document.createElement("div");
            place.append(render(source));
            return place.innerHTML;
        }""",
        source,
    )
    assert shown == nodes


def test_every_letter_is_shown_once_and_in_order_whatever_is_written(plain: Page) -> None:
    faults = plain.evaluate(
        """async () => {
            const { render } = await import("/studio/markdown.js");
            const fences = ["```", "~~~"]; // whose language is no part of the text
            const signs = ["`", "**", "*", "_", "#", "-", "1.", " ", "  ", "\\n", "a", "鲁", "+"];
            const faults = [];
            let seed = 1;
            const draw = (most) => (seed = (seed * 48271) % 2147483647) % most;
            for (let round = 0; round < 3000; round += 1) {
                const known = round % 2 ? signs : [...signs, ...fences];
                const source = Array.from({ length: draw(40) }, () => known[draw(known.length)]).join("");
                let [end, text] = [0, ""];
                render(source, (from, to) => {
                    if (from < end || to < from || to > source.length) faults.push([source, from, to, end]);
                    end = to;
                    text += source.slice(from, to);
                    return [];
                });
                const letters = (words) => words.replace(/[^a鲁]/g, "");
                const hasFence = /```|~~~/.test(source);
                if (!hasFence && letters(text) !== letters(source)) faults.push([source, text]);
            }
            return faults.slice(0, 3);
        }"""
    )
    assert faults == []


@pytest.fixture(scope="module")
def plain(browser: Browser, endless: Running) -> Iterator[Page]:
    """The page, for what it is made of."""
    studio = visit(browser, endless.url)
    yield studio.page
    studio.page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_as_light_or_dark_as_the_machine_until_it_is_switched(
    scheme: str, show_studio: ShowStudio
) -> None:
    studio = show_studio(color_scheme=scheme)
    script(studio, "ok")
    studio.ask("one")
    for is_dark in (scheme == "dark", scheme != "dark"):
        for selector, behind in READ.items():
            ink, paper = (
                _light(studio.page, selector, "color"),
                _light(studio.page, behind, "backgroundColor"),
            )
            assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, selector  # WCAG 2.2, 1.4.3
        assert (
            _light(studio.page, "body", "color") > _light(studio.page, "body", "backgroundColor")
        ) == is_dark
        studio.page.click("#theme")
    studio.page.click("#theme")
    studio.page.reload()
    assert (_light(studio.page, "body", "backgroundColor") < 0.5) == (scheme != "dark")


def _light(page: Page, selector: str, name: str) -> float:
    """The relative luminance of a colour, as WCAG 2.2 defines it."""
    told = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{name}")
    parts = [int(part) / 255 for part in told.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("width", [390, 700, 1100, 1400])
def test_nothing_stands_beyond_the_edge_however_wide_the_screen(width: int, show_studio: ShowStudio) -> None:
    studio = show_studio(viewport={"width": width, "height": 800}, has_touch=True)
    script(studio, LONG)
    studio.ask("question" * 30)
    for place in ("document.documentElement", "document.getElementById('turns')"):
        assert studio.page.evaluate(f"{place}.scrollWidth <= {place}.clientWidth")
    for selector in ("#send", "#typed", "#theme", "#show-knobs", "#model", ".turn pre", ".turn .acts button"):
        box = studio.page.locator(selector).first.bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_on_a_phone_the_sides_are_drawers(show_studio: ShowStudio) -> None:
    studio = show_studio(viewport=PHONE, has_touch=True)
    script(studio, "ok")
    studio.ask("first")
    page = studio.page
    assert page.is_hidden("#new")
    page.tap("#show-chats")
    page.tap("#new")
    page.wait_for_selector("#new", state="hidden")
    page.tap("#show-knobs")
    page.wait_for_selector("#knob-seed:visible")
    page.touchscreen.tap(10, 400)
    page.wait_for_selector("#knob-seed", state="hidden")
    studio.ask("second")
    page.tap("#show-chats")
    page.tap("#list .title:has-text('first')")
    assert studio.turns("user").locator(".text").all_inner_texts() == ["first"]


def test_a_key_is_asked_for_where_one_is_needed(browser: Browser) -> None:
    with (
        running(tiny_lm(context=1024), pages=1024, keys=("secret",)) as server,
        _gone_after(browser) as studio,
    ):
        studio.page.goto(server.url)
        assert "API key" in studio.trouble()
        studio.page.fill("#trouble input", "wrong")
        studio.page.click("#trouble button")
        studio.page.wait_for_selector("#trouble p:has-text('this key is not known')")
        studio.page.fill("#trouble input", "secret")
        studio.page.click("#trouble button")
        studio.page.wait_for_selector("#model option", state="attached")
        assert studio.page.is_hidden("#trouble")
        studio.knobs(max_tokens=4)
        assert studio.ask("one")


def test_who_asks_too_often_is_told_when_to_come_again(browser: Browser) -> None:
    limits = {"requests_per_minute": 1}
    with running(tiny_lm(context=1024), pages=1024, limits=limits) as server, _gone_after(browser) as studio:
        studio.open(server.url)
        studio.knobs(max_tokens=4)
        first = studio.ask("one")
        studio.act("assistant", "Regenerate")
        assert studio.trouble() == "more than 1 requests a minute"
        button = studio.page.locator("#trouble button")
        assert 50 < int(button.inner_text().removeprefix("Try again in ").removesuffix(" s")) <= 60
        assert button.is_disabled()
        assert studio.messages()[-1]["content"] == first  # what could not be replaced is still there


def test_a_wait_that_is_over_can_be_tried_again(show_studio: ShowStudio) -> None:
    studio = show_studio()
    studio.page.route("**/v1/chat/completions", lambda route: route.fulfill(
        status=429, headers={"Retry-After": "1"}, json={"error": {"message": "too many"}}), times=1)  # fmt: skip
    studio.knobs(max_tokens=4)
    studio.send("one")
    studio.page.wait_for_selector("#trouble button:disabled")
    studio.page.click("#trouble button:enabled")
    assert wait_for(lambda: len(studio.messages()) == 2)
    assert studio.answer()
    assert studio.page.is_hidden("#trouble")


def test_a_server_that_is_gone_is_told_and_the_question_stays(browser: Browser) -> None:
    with _gone_after(browser) as studio:
        with running(tiny_lm(context=1024), pages=1024) as server:
            studio.open(server.url)
        studio.send("one")
        assert studio.trouble() == "The server does not answer. Is it still running?"
        assert studio.turns("user").locator(".text").all_inner_texts() == ["one"]
        assert studio.turns("assistant").count() == 0
        assert studio.page.is_visible("#send")


def test_an_answer_that_breaks_off_is_kept_and_told(show_studio: ShowStudio) -> None:
    studio = show_studio()
    script(studio, "half of", " it", done=False)
    studio.send("one")
    assert studio.trouble() == "The connection broke off before the answer had ended."
    assert studio.answer() == "half of it"


def test_what_the_server_refuses_is_told_in_its_words(show_studio: ShowStudio) -> None:
    studio = show_studio()
    studio.knobs(max_tokens=4)
    studio.send("word " * 2000)
    assert "no room for an answer" in studio.trouble()


@contextlib.contextmanager
def _gone_after(browser: Browser) -> Iterator[Studio]:
    studio = Studio(browser.new_context().new_page())
    yield studio
    studio.page.context.close()
    assert not [said for said in studio.complaints if REFUSED not in said]
