"""The chat page in a real browser: an answer as it comes, and what can be done with it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from tests.serving.running import Running, wait_for
from tests.serving.studio_page import ShowStudio, Studio, script
from tests.serving.test_gate import slowly

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.slow


def test_an_answer_appears_while_it_is_written_and_is_the_models_own(
    show_studio: ShowStudio, endless: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = show_studio()
    with monkeypatch.context() as slow:
        slowly(endless, slow, 0.03)
        studio.knobs(max_tokens=60, seed=1)
        studio.send("The quick")
        studio.page.wait_for_selector(".turn.writing .token >> nth=3")
        assert studio.page.is_visible("#stop")
        grown = len(studio.turns("assistant").inner_text())
        studio.page.wait_for_selector(".turn.writing .token >> nth=20")
        assert len(studio.turns("assistant").inner_text()) > grown
    asked = dict(studio.bodies[-1], stream=False)
    del asked["stream_options"]
    answer = endless.post("/v1/chat/completions", asked).json()["choices"][0]["message"]["content"]
    assert studio.answer() == answer
    assert studio.turns("user").locator(".text").inner_text() == "The quick"


def test_how_fast_it_was_and_why_it_ended_is_told(show_studio: ShowStudio) -> None:
    studio = show_studio()
    studio.knobs(max_tokens=12)
    studio.ask("The quick")
    note = studio.turns("assistant").locator(".note").inner_text()
    assert note.startswith("Cut off: no more tokens were allowed · tiny · 12 tokens · ")
    assert "tokens/s · first after 0." in note
    script(studio, "Whole.")
    studio.ask("Again")
    assert "Cut off" not in studio.turns("assistant").last.locator(".note").inner_text()


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop_keeps_what_was_written_and_frees_the_request(
    way: str, show_studio: ShowStudio, endless: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = endless.served.engine.stats().aborted
    slowly(endless, monkeypatch, 0.03)
    studio = show_studio()
    studio.knobs(max_tokens=400)
    studio.send("The quick")
    studio.page.wait_for_selector(".turn.writing .token >> nth=3")
    if way == "button":
        studio.page.click("#stop")
    else:
        studio.page.keyboard.press("Escape")
    assert studio.answer()
    assert endless.settled()
    stats = endless.served.engine.stats()
    assert stats.aborted == before + 1
    assert studio.turns("assistant").locator(".note").inner_text().startswith("Stopped · tiny · ")


def test_leaving_the_page_frees_the_request_and_keeps_what_there_was(
    show_studio: ShowStudio, endless: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly(endless, monkeypatch, 0.03)
    studio = show_studio()
    studio.knobs(max_tokens=400)
    studio.send("The quick")
    assert wait_for(lambda: len(studio.messages()[-1]["content"]) > 5)  # kept while it is written
    studio.page.reload()
    assert endless.settled()
    assert studio.turns("assistant").locator(".note").inner_text() == "Broken off · tiny"
    assert studio.turns("assistant").locator(".text").inner_text().strip()


def test_regenerate_asks_again_and_replaces_the_answer(show_studio: ShowStudio) -> None:
    studio = show_studio()
    studio.knobs(max_tokens=12, seed=1)
    first = studio.ask("The quick")
    studio.knobs(seed=2)
    studio.act("assistant", "Regenerate")
    studio.page.wait_for_function("first => !document.body.innerText.includes(first)", arg=first)
    assert studio.answer() != first
    assert studio.bodies[1]["messages"] == studio.bodies[0]["messages"] == [_user("The quick")]
    assert studio.turns("assistant").count() == 1


def test_an_edited_message_goes_on_from_there(show_studio: ShowStudio) -> None:
    studio = show_studio()
    studio.knobs(max_tokens=4)
    studio.ask("one")
    studio.ask("two")
    studio.act("user", "Edit", 0)
    studio.page.fill(".editing textarea", "three")
    studio.page.click(".editing button:has-text('Send, dropping 3 later')")
    studio.answer()
    assert studio.bodies[-1]["messages"] == [_user("three")]
    assert studio.turns("user").locator(".text").all_inner_texts() == ["three"]
    assert [message["role"] for message in studio.messages()] == ["user", "assistant"]


def test_an_edited_answer_is_what_the_model_sees_next(show_studio: ShowStudio) -> None:
    studio = show_studio()
    studio.knobs(max_tokens=4)
    studio.ask("one")
    studio.act("assistant", "Edit")
    studio.page.fill(".editing textarea", "I said this.")
    studio.page.keyboard.press("Enter")
    studio.ask("two")
    assert studio.bodies[-1]["messages"] == [
        _user("one"),
        {"role": "assistant", "content": "I said this."},
        _user("two"),
    ]


def test_the_arrow_up_edits_the_last_message_and_escape_leaves_it(show_studio: ShowStudio) -> None:
    studio = show_studio()
    studio.knobs(max_tokens=4)
    studio.ask("one")
    studio.page.press("#typed", "ArrowUp")
    assert studio.page.input_value(".editing textarea") == "one"
    studio.page.keyboard.type(" more")
    studio.page.keyboard.press("Escape")
    assert studio.page.locator(".editing").count() == 0
    assert studio.turns("user").locator(".text").inner_text() == "one"
    studio.page.keyboard.press("ArrowUp")  # the field for messages has the keys again
    studio.page.keyboard.type("!")
    studio.page.keyboard.press("Enter")
    studio.answer()
    assert studio.bodies[-1]["messages"] == [_user("one!")]


def test_shift_enter_is_a_new_line_and_nothing_is_no_message(show_studio: ShowStudio) -> None:
    studio = show_studio()
    script(studio, "ok")
    studio.send("  ")
    studio.page.fill("#typed", "")
    studio.page.keyboard.type("one")
    studio.page.keyboard.press("Shift+Enter")
    studio.page.keyboard.type("two")
    studio.page.keyboard.press("Enter")
    studio.answer()
    assert [body["messages"] for body in studio.bodies] == [[_user("one\ntwo")]]


def test_enter_that_takes_a_word_of_an_input_method_sends_nothing(show_studio: ShowStudio) -> None:
    studio = show_studio()
    studio.page.fill("#typed", "鲁班")
    taken = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true})"
    assert studio.page.evaluate(f"document.getElementById('typed').dispatchEvent({taken})")
    assert studio.page.input_value("#typed") == "鲁班"
    assert not studio.bodies


def test_pointing_at_a_word_tells_the_probabilities_of_its_tokens(
    show_studio: ShowStudio, endless: Running
) -> None:
    studio = show_studio()
    studio.knobs(max_tokens=6, seed=1, top_logprobs=3, temperature=1, top_p=1)
    studio.ask("The quick")
    asked = dict(studio.bodies[-1], stream=False)
    del asked["stream_options"]
    told = endless.post("/v1/chat/completions", asked).json()["choices"][0]["logprobs"]["content"]
    assert studio.page.is_hidden("#card")
    spans = studio.page.locator(".token")
    seen = {tuple(_rows(studio, place)) for place in range(spans.count())}
    alone = {rows for rows in seen if len(rows) <= 4}  # more are of several tokens
    assert alone
    assert alone <= {_table(token) for token in told}
    studio.page.mouse.move(5, 500)
    assert studio.page.is_hidden("#card")


def _rows(studio: Studio, place: int) -> list[tuple[str, str]]:
    studio.page.locator(".token").nth(place).hover()
    rows = studio.page.locator("#card tr").all()
    return [(row.locator("code").inner_text(), row.locator("td").last.inner_text()) for row in rows]


def _table(token: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The card of one token, by hand."""
    others = token["top_logprobs"]
    rows = others if any(other["token"] == token["token"] for other in others) else [token, *others]
    return tuple((_visible(row["token"]), _percent(row["logprob"])) for row in rows)


def _visible(token: str) -> str:
    return token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")


def _percent(logprob: float) -> str:
    share = math.exp(logprob)
    return "< 0.1 %" if share < 0.001 else f"{share * 100:.1f} %"


def test_a_character_of_several_tokens_tells_all_of_them(show_studio: ShowStudio) -> None:
    studio = show_studio()
    pieces = [["鲁", [["bytes:\\xe9", -0.1, []], ["bytes:\\xb2\\x81", -0.2, []]]], ["!", [["!", -1, []]]]]
    texts = studio.page.evaluate(
        """async (pieces) => {
            const { spansOf } = await import("/studio/tokens.js");
            return spansOf(pieces)(0, 2).map((span) => [span.textContent, span.tokens.length]);
        }""",
        pieces,
    )
    assert texts == [["鲁", 2], ["!", 1]]


def test_a_tap_tells_them_on_a_phone(show_studio: ShowStudio) -> None:
    studio = show_studio(has_touch=True)
    studio.knobs(max_tokens=6)
    studio.ask("The quick")
    studio.page.locator(".token").first.tap()
    studio.page.wait_for_selector("#card:visible tr")


def test_every_knob_is_asked_for_and_an_empty_one_left_to_the_server(show_studio: ShowStudio) -> None:
    studio = show_studio()
    script(studio, "ok")
    values: dict[str, Any] = {"temperature": 0.35, "top_p": 0.9, "top_k": 7, "min_p": 0.05}
    values |= {"repetition_penalty": 1.2, "max_tokens": 9, "seed": 5, "top_logprobs": 2}
    studio.knobs(**values, stop="END\n\\n\\nQ:")
    studio.page.fill("#system", "Be brief.")
    studio.ask("one")
    plain = {"stream": True, "stream_options": {"include_usage": True}, "model": "tiny"}
    messages = [{"role": "system", "content": "Be brief."}, _user("one")]
    assert studio.bodies[-1] == plain | values | {
        "messages": messages,
        "stop": ["END", "\n\nQ:"],
        "logprobs": True,
    }
    studio.knobs(**dict.fromkeys(values, ""), stop="")
    studio.act("assistant", "Regenerate")
    studio.page.wait_for_function("() => document.querySelectorAll('.turn').length == 2")
    studio.answer()
    assert wait_for(lambda: len(studio.bodies) == 2)
    assert studio.bodies[-1] == plain | {"messages": messages}
    studio.page.click("#drawing [type=reset]")
    assert studio.page.input_value("#knob-temperature") == "0.7"


def test_the_server_honours_every_knob(show_studio: ShowStudio) -> None:
    studio = show_studio()
    studio.knobs(temperature=0.35, top_p=0.9, top_k=7, min_p=0.05, repetition_penalty=1.2, max_tokens=9,
                 seed=5, top_logprobs=20, stop="no such text")  # fmt: skip
    studio.page.fill("#system", "Be brief.")
    assert studio.ask("one")
    assert studio.page.is_hidden("#trouble")


def test_a_knob_beyond_its_range_is_shown_and_nothing_is_sent(show_studio: ShowStudio) -> None:
    studio = show_studio()
    studio.knobs(temperature=3)
    studio.page.click("#show-knobs")  # closes them
    studio.send("one")
    assert studio.page.is_visible("#knob-temperature:invalid")
    assert studio.page.input_value("#typed") == "one"
    assert not studio.bodies


def test_an_adapter_is_chosen_under_its_model_and_again_next_time(show_studio: ShowStudio) -> None:
    studio = show_studio()
    models = [{"id": "base"}, {"id": "poet", "parent": "base"}, {"id": "coder", "parent": "base"}]
    studio.page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": models}))
    script(studio, "ok")
    studio.page.reload()
    studio.page.wait_for_selector("optgroup[label='Adapters of base'] option", state="attached")
    studio.page.select_option("#model", "poet")
    studio.ask("one")
    assert studio.bodies[-1]["model"] == "poet"
    assert "poet · " in studio.turns("assistant").locator(".note").inner_text()
    studio.page.reload()
    studio.page.wait_for_selector("#model option", state="attached")
    assert studio.page.input_value("#model") == "poet"


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}
