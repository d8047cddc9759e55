"""Extraction: the article stays with its shape, what surrounds it goes, and nothing goes uncounted."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.document import Document
from luban.data.extract.main_text import extract
from luban.data.step import Batch, Drop, Edit
from luban.data.steps.extract import Extract

PARAGRAPHS = [
    "The harbour was rebuilt three times in the last century, twice after storms and once, at great cost, after a "
    "fire that began in a rope store.",
    "Each time, the town council argued for years about whether the old stone quay should be kept; each time it was, "
    "and ships still tie up to rings that were set in it in 1804.",
    "Today the harbour is quiet. Fishing boats leave before dawn, and by noon the only sound is that of the gulls "
    "over the fish market, which opens, as it always did, at ten.",
]
LINKS = "".join(f"<li><a href=/{i}>Section number {i}</a></li>" for i in range(12))
PAGE = f"""<!doctype html><html><head><title>The old harbour | Gazette</title></head><body>
<header class="site-header"><nav class="main-menu"><ul>{LINKS}</ul></nav></header>
<div class="article-body"><h1>The old harbour</h1><p>{PARAGRAPHS[0]}</p><p>{PARAGRAPHS[1]}</p>
<ul><li>The first quay was built in 1731, of oak.</li><li>The second was built of granite in 1804.</li></ul>
<pre>  tide = table["harbour"]\n    depth = 4 &lt; 5</pre><p>{PARAGRAPHS[2]}</p></div>
<aside class="sidebar related"><h3>Most read</h3><ul>{LINKS}</ul></aside>
<footer class="site-footer">Copyright © 2020 Gazette. All rights reserved. <a href=/p>Privacy</a></footer>
</body></html>"""


def run(
    text: str, step: Extract | None = None, content_type: str = "text/html; charset=utf-8"
) -> Drop | Edit | None:
    [outcome] = (step or Extract())(
        Batch([Document(id="0", text=text, source="", meta={"content_type": content_type})])
    )
    return outcome


def test_the_article_stays_and_what_surrounds_it_goes() -> None:
    found = run(PAGE)
    assert isinstance(found, Edit)
    assert found.text is not None
    assert found.meta == {"content_type": "text/plain", "title": "The old harbour | Gazette"}
    for paragraph in PARAGRAPHS:
        assert f"{paragraph}" in found.text.split("\n\n")
    for other in ("Section number", "Most read", "Copyright", "Privacy"):
        assert other not in found.text


def test_lists_code_and_tables_keep_their_shape() -> None:
    table = "<table><tr><th>Year<th>Ships<tr><td>1804<td>12 &amp; a boat</table>"
    nested = "<ul><li>one<ul><li>two</ul><li><p>three</p><p>and more</ul>"
    page = f"<h2>Head</h2><p>Text.</p>{nested}{table}<pre>\n a &lt; b\n\n   c\n</pre><p>line<br>next</p>"
    text = extract(page, threshold=-1e9).text
    lists = "- one\n  - two\n- three\nand more"
    assert (
        text
        == f"Head\n\nText.\n\n{lists}\n\nYear | Ships\n1804 | 12 & a boat\n\n a < b\n\n   c\n\nline\nnext"
    )


def test_a_stricter_threshold_keeps_no_more() -> None:
    sizes = [len(extract(PAGE, threshold=threshold).text) for threshold in (-9.0, 0.5, 3.0, 50.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 0 < sizes[1] < sizes[0]


def test_documents_that_are_no_pages_stay_as_they_are() -> None:
    assert run(PAGE, content_type="text/plain") is None
    assert Extract()(Batch([Document(id="0", text=PAGE, source="")])) == [None]
    assert isinstance(run(PAGE, content_type="application/xhtml+xml"), Edit)


@pytest.mark.parametrize("page", ["", "<html></html>", "<script>x</script>", " "])
def test_a_page_without_text_is_dropped_and_says_so(page: str) -> None:
    assert run(page) == Drop("no_main_text", 0)


def test_a_page_beyond_the_bound_is_not_read() -> None:
    assert run("<p>" + "é" * 600, Extract(max_bytes=1000)) == Drop("page_too_long", 1203)
    assert run(PAGE, Extract(min_chars=100_000)) == Drop(
        "no_main_text", len(extract(PAGE, threshold=0.5).text)
    )


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.integers(0, len(PAGE)),
    st.integers(0, len(PAGE)),
)
@settings(max_examples=200)
def test_any_page_cut_and_filled_with_anything_is_read(noise: str, start: int, end: int) -> None:
    page = PAGE[:start] + noise + PAGE[end:]
    found = run(page)
    assert found == run(page)
    assert isinstance(found, Drop) or (isinstance(found, Edit) and found.text)


@pytest.mark.parametrize(
    "page", ["<div>" * 100_000 + "deep", f"<p class='{'x ' * 1_000_000}'>wide", "<td>" * 200_000 + "x"]
)
def test_depth_and_width_are_no_danger(page: str) -> None:
    assert run(page) is not None


def test_the_step_travels() -> None:
    assert run(PAGE, pickle.loads(pickle.dumps(Extract()))) == run(PAGE)
