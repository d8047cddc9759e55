"""Reading HTML into blocks: what a browser would show, in order, whatever the markup; never a crash, never slow."""

from __future__ import annotations

import html as entities
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luban.data.extract.blocks import HINTS, TAGS, Page, read_page

MARKUP = """<p> </p> <div> </div> <b> </b> <a/href=x> </a> <table> <tr> <td> </td> </table> <ul> <li> </ul> <script>
</script> <!-- --> < > </ <br> <pre> </pre> <svg> <path/> </svg> <title> </title> &amp; &nbsp word 中文， é <p/a=' "
<!doctype <? <x-y> <button> </button> <![CDATA["""
PIECES = [*MARKUP.split(), " ", "\n", "\x00"]
SOUP = st.lists(
    st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    max_size=60,
)


def texts(page: Page) -> list[str]:
    return [page.block_text(index) for index in range(len(page.blocks["start"]))]


def tags(page: Page) -> list[str]:
    return [TAGS[page.nodes["tag"][node]] for node in page.blocks["node"]]


def blocks(html: str) -> list[tuple[str, str]]:
    page = read_page(html)
    return list(zip(tags(page), texts(page), strict=True))


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p>one\n  two<p>three", [("p", "one two"), ("p", "three")]),
        ("<div>a<p>b</p>c</div>", [("div", "a"), ("p", "b"), ("div", "c")]),
        ("<ul><li>a<li>b<ul><li>c</ul></ul>", [("li", "a"), ("li", "b"), ("li", "c")]),
        ("<table><tr><td>a<td>b<tr><th>c</table>", [("td", "a"), ("td", "b"), ("td", "c")]),
        ("<dl><dt>t<dd>d<dt>u</dl>", [("dt", "t"), ("dd", "d"), ("dt", "u")]),
        ("<H1>Big</h1 >x<hr>y", [("h1", "Big"), ("root", "x"), ("root", "y")]),
        ("a<br>b<br/><br>c", [("root", "a\nb"), ("root", "c")]),
        ("<pre>  x\n\n y</pre>", [("pre", "  x\n\n y")]),
        ("<p>a <b>b<p>c</b> d", [("p", "a b"), ("p", "c d")]),
        ("<td><div>in</td></div>out", [("div", "in"), ("root", "out")]),
        ("<b>x</b></div></p></table>y", [("root", "x"), ("root", "y")]),
    ],
)
def test_blocks_end_where_a_browser_breaks_the_line(html: str, expected: list[tuple[str, str]]) -> None:
    assert blocks(html) == expected


@pytest.mark.parametrize(
    "html",
    [
        "a<script>if (1<2) '</p>' </SCRIPT >b",
        "a<style>p{}</style>b<!-- <p>no</p> -->",
        "a<svg><g><path d='M0'/><text>no</text></g></svg>b",
        "a<button><div>no</div></button>b",
        "a<noscript><p>no</noscript>b",
        "a<select><option>no</select>b",
        "a<template><p>no</p></template>b",
        "a<!doctype html><?xml no?>b",
        "a<textarea><p>no</p></textarea>b",
    ],
)
def test_what_is_no_text_is_left_out(html: str) -> None:
    assert "".join(texts(read_page(html))) == "ab"


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("1 < 2 <3> &lt;p&gt;", "1 < 2 <3> &lt;p&gt;"),
        ("<p title='a > b' class=\"x'y\">ok", "ok"),
        ('<a href="never closed>ok</a>', "ok"),
        ("<!-- never closed>ok", "ok"),
        ("ok<script>never closed", "ok"),
        ("ok<p class", "ok"),
        ("ok</", "ok</"),
        ("<p/>ok", "ok"),
        ("<p a=b/c d='e'f>ok", "ok"),
    ],
)
def test_broken_markup_loses_no_text(html: str, expected: str) -> None:
    assert "".join(texts(read_page(html))) == expected


def test_the_title_is_that_for_sharing_else_the_pages_own() -> None:
    own, shared = "<title>A &amp; B | Site</title>", '<meta property="og:title" content="A &amp; B">'
    assert read_page(own + "x").title == "A &amp; B | Site"
    assert read_page(own + shared).title == read_page(shared + own).title == "A &amp; B"
    assert read_page("<svg><title>no</title></svg>x").title == ""


def test_counts_are_those_of_the_text_by_hand() -> None:
    b = read_page("<p>One, Two <a href=x>three 4</a>. <b>bold!</b></p>").blocks
    counted = {
        name: int(b[name][0])
        for name in ("chars", "words", "link_chars", "links", "commas", "stops", "digits")
    }
    assert counted == {
        "chars": 23,
        "words": 6,
        "link_chars": 6,
        "links": 1,
        "commas": 1,
        "stops": 2,
        "digits": 1,
    }
    assert (b["uppers"][0], b["bold_chars"][0], b["last"][0]) == (2, 5, ord("!"))


def test_hints_are_words_of_names_not_letters_within_them() -> None:
    page = read_page("<div class='postContent sidebar-left' id=headache><p>x<div class=shadow>y")
    found = [{HINTS[bit] for bit in range(len(HINTS)) if hints >> bit & 1} for hints in page.nodes["hints"]]
    assert found == [set(), {"content", "body", "side"}, set(), set()]


@given(SOUP)
@settings(max_examples=500)
@example(["<p>"] * 60)
def test_any_soup_keeps_its_words_in_order_and_its_tables_sound(pieces: list[str]) -> None:
    source = "".join(pieces)
    page = read_page(source)
    b, n = page.blocks, page.nodes
    assert (b["start"] < b["end"]).all()
    assert (b["start"][1:] >= b["end"][:-1]).all()
    assert (b["link_chars"] <= b["chars"]).all()
    assert (n["parent"][1:] < range(1, len(n["parent"]))).all()
    assert (n["first"] <= n["last"]).all()
    assert (b["node"] < len(n["tag"])).all()
    for index, node in enumerate(b["node"]):
        assert n["first"][node] <= index < n["last"][node]
    rest = iter(source)
    assert all(sign in rest for sign in re.sub(r"\s", "", "".join(texts(page))))


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<&"), max_size=200))
def test_text_without_markup_comes_back_with_its_spaces_folded(text: str) -> None:
    found = "".join(texts(read_page(text)))
    assert re.sub(r"[ \t\n\v\f\r]+", " ", text).strip(" ") == entities.unescape(found)


@pytest.mark.parametrize(
    "unit",
    ["<div>", "<b>", "<p>x", "<td>", "<li>x", "<!--", "<a b='", '<a b="', "<script>", "<script></", "</div>", "<table>",
     "<", "</", "<b><p>", "<svg><path/>", "<a ", "&", "<x a=b ", "<ul><li>", "<button>", "a b "],
)  # fmt: skip
def test_time_grows_with_the_bytes_and_no_faster(unit: str) -> None:
    def seconds(count: int) -> float:
        page = unit * count
        best = 9.0
        for _ in range(2):
            start = time.thread_time()
            read_page(page)
            best = min(best, time.thread_time() - start)
        return best

    assert seconds(100_000) < 40 * seconds(5_000) + 0.1
