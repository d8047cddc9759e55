from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.dedup.urls import UrlDuplicates, normalise
from luban.data.step import Batch, Drop
from tests.data.dedup.corpora import documents, run


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/page",
        "http://example.org/page/",
        "HTTP://WWW.EXAMPLE.ORG:80/page",
        "https://example.org:443/page#part",
        "https://example.org/page?utm_source=x&fbclid=7",
        "example.org./page",
        " https://example.org/page;jsessionid=8A?PHPSESSID=3 ",
    ],
)
def test_ways_to_write_one_address(url: str) -> None:
    assert normalise(url) == "example.org/page"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/Page",
        "https://example.org/page?id=1",
        "https://example.org:8080/page",
        "https://example.org:80/page",
        "https://docs.example.org/page",
        "https://example.org/page/2",
    ],
)
def test_addresses_of_other_pages_stay_apart(url: str) -> None:
    assert normalise(url) != "example.org/page"


def test_parameters_count_but_not_their_order() -> None:
    assert normalise("http://a.b/?y=2&x=1&x=0") == normalise("http://a.b?x=0&x=1&y=2") == "a.b?x=0&x=1&y=2"


@pytest.mark.parametrize("url", ["http://[broken", "http://a:port/", "not a url", "", "//"])
def test_what_is_no_address_is_compared_as_it_is(url: str) -> None:
    assert normalise(url) in (url, "")


@settings(deadline=None)
@given(st.text(max_size=30))
def test_anything_may_stand_where_an_address_should(url: str) -> None:
    address = f"http://example.org/{url}"
    first, second = UrlDuplicates().collect(Batch(documents("a", "b", url=[address, f" {address}"])))["urls"]
    assert first == second != 0


def test_the_longest_document_of_an_address_stays() -> None:
    urls = ["http://a.b/", "http://c.d", "https://www.a.b", "http://a.b"]
    outcomes = run(UrlDuplicates(), documents("12", "1", "1234", "4321", url=urls), cuts=[2])
    assert outcomes == [Drop("duplicate_url", "1/0"), None, None, Drop("duplicate_url", "1/0")]


def test_or_the_first() -> None:
    outcomes = run(
        UrlDuplicates(keep="first"), documents("12", "1234", url=["http://a.b/", "https://www.a.b"])
    )
    assert outcomes == [None, Drop("duplicate_url", "0/0")]


def test_documents_without_an_address_stay() -> None:
    assert run(UrlDuplicates(), documents("a", "a", "a", "a", url=[None, None, "", 7])) == [None] * 4
