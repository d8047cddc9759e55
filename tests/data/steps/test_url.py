"""The URL filter: hosts by list, words by weight, every common list format, and no page without an address lost."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import pytest

from luban.data.document import Document
from luban.data.step import Batch, Drop
from luban.data.steps.url import UrlFilter, read_list, split_address
from luban.errors import DataError


def judge(step: UrlFilter, *urls: object) -> list[str | None]:
    documents = [Document(id=str(i), text="", source="", meta={"url": url}) for i, url in enumerate(urls)]
    return [found.reason if isinstance(found, Drop) else None for found in step(Batch(documents))]


@pytest.fixture
def banned(tmp_path: Path) -> Path:
    path = tmp_path / "banned.txt"
    path.write_text("# a comment\nBad.Example\nsite.org/forum/spam\n")
    return path


def test_a_listed_host_takes_all_below_it_and_none_beside_it(banned: Path) -> None:
    step = UrlFilter(domains=(banned,), builtin=False)
    urls = (
        "http://bad.example/",
        "https://a.b.BAD.example:8080/x",
        "http://user@www.bad.example",
        "//bad.example?q",
    )
    assert judge(step, *urls) == ["url_domain"] * 4
    assert (
        judge(step, "http://notbad.example", "http://bad.example.com", "http://x.org/bad.example")
        == [None] * 3
    )


def test_a_listed_address_takes_the_page_and_its_folder(banned: Path) -> None:
    step = UrlFilter(domains=(banned,), builtin=False)
    urls = (
        "https://site.org/forum/spam",
        "http://www.site.org/forum/spam/1?page=2",
        "http://site.org/forum/spam#x",
    )
    assert judge(step, *urls) == ["url_address"] * 3
    assert judge(step, "http://site.org/forum", "http://site.org/forum/spammer") == [None] * 2


def test_strict_strings_hard_words_and_two_soft_words_drop_a_page() -> None:
    step = UrlFilter(builtin=False, strict=("evilcasino",), hard=("vile",), soft=("rude", "crude"))
    urls = (
        "http://myevilcasinos.com",
        "http://a.com/very-vile.html",
        "http://rude.com/crude",
        "http://x.com/%76ile",
    )
    assert judge(step, *urls) == ["url_strict", "url_hard", "url_soft", "url_hard"]
    assert (
        judge(step, "http://a.com/vilely", "http://rude.com/rude/rude", "http://a.com/rudecrude")
        == [None] * 3
    )


def test_the_own_words_catch_the_plain_cases_and_spare_innocent_ones() -> None:
    bad = (
        "http://free-porn.example/",
        "http://x.example/xxx/1",
        "http://hot-babes.example/",
        "http://a.b/onlinecasino99",
    )
    assert None not in judge(UrlFilter(), *bad)
    good = ("http://essex.ac.uk/", "http://scunthorpe.gov.uk/adult-education", "http://a.org/sex-education/biology",
            "http://grape.org/therapist", "https://docs.python.org/3/library/analysis.html", "http://a.org/hot-water",
            "http://classics.edu/cockpit", "http://lgbt.example/gay-rights-teens")  # fmt: skip
    assert judge(UrlFilter(), *good) == [None] * len(good)


def test_curated_sources_go_only_where_asked_and_allowed_hosts_stay() -> None:
    url = "https://en.wikipedia.org/wiki/Luban"
    assert judge(UrlFilter(), url) == [None]
    assert judge(UrlFilter(curated=True), url) == ["url_curated"]
    assert judge(UrlFilter(curated=True, allow=("wikipedia.org",)), url) == [None]


def test_a_document_without_a_url_stays() -> None:
    assert judge(UrlFilter(curated=True), None, "") == [None, None]
    assert UrlFilter()(Batch([Document(id="0", text="porn", source="")])) == [None]


def test_every_common_list_format_is_read(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n0.0.0.0 ads.example tracker.example # why\n::1 localhost\n")
    rules = tmp_path / "rules.txt"
    rules.write_text(
        "[Adblock Plus 2.0]\n! title\n||ads.example^$third-party\n*.wild.example\nhttp://page.example/a/\n"
    )
    folder = tmp_path / "ut1" / "adult"
    folder.mkdir(parents=True)
    (folder / "domains").write_text("one.example\n")
    with gzip.open(folder / "urls.gz", "wt") as file:
        file.write("two.example/x\n")
    assert list(read_list(hosts)) == ["ads.example", "tracker.example"]
    assert list(read_list(rules)) == ["ads.example", "wild.example", "page.example/a"]
    assert list(read_list(tmp_path / "ut1")) == ["one.example", "two.example/x"]


def test_a_list_that_is_none_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "prose.txt"
    path.write_text("ok.example\nthis is a sentence\n")
    with pytest.raises(DataError, match=r"prose.txt:2: .*'this is a sentence'"):
        list(read_list(path))
    with pytest.raises(DataError, match="no such list"):
        list(read_list(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file 'domains' or 'urls'"):
        list(read_list(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("http://www.a.org/b/c?d#e", ("a.org", "b/c?d")),
        ("a.org", ("a.org", "")),
        ("https://u:p@a.org.:80?q=/x", ("a.org", "?q=/x")),
        ("http://", ("", "")),
        ("http:///x", ("", "x")),
    ],
)
def test_an_address_is_split_into_host_and_rest(address: str, parts: tuple[str, str]) -> None:
    assert split_address(address) == parts


def test_the_step_travels_and_judges_the_same(banned: Path) -> None:
    step = pickle.loads(pickle.dumps(UrlFilter(domains=(banned,))))
    assert judge(step, "http://bad.example") == ["url_domain"]
