"""Stop strings across pieces: nothing of a stop string is ever let through, and nothing else is lost."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.errors import PromptError
from luban.inference.stopping import StopText


def through(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    gate, out = StopText(stops), ""
    for piece in pieces:
        out += gate.push(piece)
        if gate.stopped:
            return out, True
    return out + gate.finish(), False


def test_text_without_stop_strings_passes_at_once() -> None:
    assert StopText([]).push("abc") == "abc"


def test_the_beginning_of_a_stop_string_is_held_back() -> None:
    gate = StopText(["\n\nQ:"])
    assert [gate.push(piece) for piece in ("Yes.", "\n", "\nNo", "\n\nQ", ":")] == [
        "Yes.",
        "",
        "\n\nNo",
        "",
        "",
    ]
    assert gate.stopped


def test_text_that_only_looked_like_a_stop_string_comes_out_at_the_end() -> None:
    gate = StopText(["END"])
    assert gate.push("the EN") == "the "
    assert gate.finish() == "EN"


def test_a_stop_string_inside_one_piece_ends_before_it() -> None:
    assert through(["<s>"], ["one<s>two"]) == ("one", True)


def test_of_two_stop_strings_the_one_complete_first_counts() -> None:
    assert through(["abcd", "bc"], ["xabcd"]) == ("xa", True)
    assert through(["abcd", "bc"], list("xabcd")) == ("xa", True)


def test_an_overlapping_beginning_is_not_lost() -> None:
    assert through(["aab"], list("aaab")) == ("a", True)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(PromptError, match="empty"):
        StopText(["a", ""])


@given(
    text=st.text("ab\n", max_size=30),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_the_result_does_not_depend_on_how_the_text_is_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[left:right] for left, right in itertools.pairwise(edges)]
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = (text[: min(ends)[1]], True) if ends else (text, False)
    assert through(stops, pieces) == expected
