"""The dataset card: every fact is on it, every text is only text, and the pictures are to scale."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from luban.data.card import Amount, Facts, Sample, StageFacts, octave, write_card
from luban.data.card.layout import Box, flow, histogram, treemap
from luban.data.card.write import count, share, size

FACTS = Facts(
    title="Books & <pages>",
    summary="What was read.",
    before=Amount(documents=1000, bytes=8_000_000),
    stages=(
        StageFacts(
            name="gopher",
            after=Amount(documents=600, bytes=5_000_000),
            dropped={"gopher_short_words": 317, "gopher_bullets": 83},
            settings={"min_words": 50},
        ),
        StageFacts(name="pii", after=Amount(documents=600, bytes=4_999_000), changed={"email": 1234}),
    ),
    tokens=1_234_567,
    sources={
        "books": Amount(documents=200, bytes=3_000_000),
        "pages": Amount(documents=400, bytes=1_999_000),
    },
    languages={"en": Amount(documents=500, bytes=4_000_000), "zh": Amount(documents=100, bytes=999_000)},
    licenses={
        "CC-BY-4.0": Amount(documents=590, bytes=4_900_000),
        "unclear": Amount(documents=10, bytes=99_000),
    },
    lengths={256: 100, 1024: 500},
    clusters={2: 41, 8: 3},
    dates={2019: 7, 2021: 593},
    quarantined={"not valid JSON": 12},
    kept=(
        Sample(id="k1", text="<b>bold</b> " + "long " * 400, source="books", url="https://example.org/k1"),
    ),
    dropped=(Sample(id="d1", text="- a\n- b", stage="gopher", reason="gopher_bullets", value="0.93"),),
    files={"train": "train/*.parquet"},
    provenance={"seed": "17"},
)


class Page(HTMLParser):
    """Checks that elements are closed in order; collects words, tags and attributes."""

    EMPTY = ("meta", "br", "rect", "line")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(write_card(tmp_path, FACTS).read_text("utf-8"))


@pytest.mark.parametrize(
    "told",
    [
        "Books & <pages>", "tokens 1,234,567", "of the documents kept 60.0 %", "of the text kept 62.5 %",
        "gopher 600 5 MB 60.0 % 60.0 %", "pii 600 5 MB 100.0 % 60.0 %", "gopher_short_words gopher 317",
        "email pii 1,234", "books 200 3 MB", "en 4 MB 500", "CC-BY-4.0 4.9 MB 590", "1,024 – 2,047 500",
        "512 – 1,023 0", "8 – 15 3", "2020 0 2021 593", "not valid JSON 12", "k1 books https://example.org/k1",
        "d1 gopher: gopher_bullets (0.93)", "min_words 50", "seed 17",
    ],
)  # fmt: skip
def test_the_page_tells(told: str, page: Page) -> None:
    assert told in page.text


def test_the_page_asks_for_nothing_from_outside(page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [
        value for name, value in page.attributes if name in ("src", "href", "style") or name.startswith("on")
    ]


def test_a_sample_is_only_text_and_says_what_is_not_shown(page: Page) -> None:
    assert "<b>bold</b> long" in page.text
    assert "… 1,312 more characters" in page.text  # 12 + 5 * 400 characters, 700 shown


def test_every_picture_has_a_description_and_its_table(page: Page) -> None:
    assert (
        len([value for name, value in page.attributes if name == "aria-label" and "table below" in value])
        == 4
    )
    assert page.tags.count("details") == 5  # four pictures and one stage's settings


def test_a_card_without_facts_is_a_title(tmp_path: Path) -> None:
    page = Page(write_card(tmp_path, Facts(title="Empty")).read_text("utf-8"))
    assert "section" not in page.tags
    assert "Empty" in page.text


def test_the_markdown_card_has_a_header_that_hubs_read(tmp_path: Path) -> None:
    write_card(tmp_path, FACTS)
    _, header, body = (tmp_path / "card.md").read_text("utf-8").split("---\n", 2)
    assert yaml.safe_load(header) == {
        "pretty_name": "Books & <pages>",
        "license": ["cc-by-4.0", "other"],
        "language": ["en", "zh"],
        "size_categories": ["n<1K"],
        "tags": ["text", "luban"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "train/*.parquet"}]}
        ],
    }
    assert "| gopher | 600 | 5 MB | 60.0 % | 60.0 % |" in body
    assert "| gopher | gopher\\_bullets | 83 |" in body


def test_shares_of_the_flow_add_up_to_what_was_there_before() -> None:
    lines = flow(FACTS)
    assert [line.kept for line in lines] == [1, 0.6, 0.6]
    assert [line.lost for line in lines] == [0, 0.4, 0]
    assert [line.of_previous for line in lines] == [1, 0.6, 1]
    assert lines[1].bytes_kept + lines[1].bytes_lost == 1


@given(
    st.dictionaries(st.text(min_size=1), st.integers(1, 10**12), min_size=1, max_size=60), st.floats(0.3, 4)
)
def test_tiles_have_the_areas_of_their_values_and_do_not_overlap(
    values: dict[str, int], aspect: float
) -> None:
    boxes = treemap(values, aspect=aspect)
    total = sum(values.values())
    assert sum(box.value for box in boxes) == total
    assert len(boxes) == min(len(values), 40)
    for box in boxes:
        assert box.width * box.height / 10_000 == pytest.approx(box.value / total, rel=1e-6)
        assert box.x >= -1e-6
        assert box.x + box.width <= 100 + 1e-6
        assert box.y + box.height <= 100 + 1e-6
    for one, other in combinations(boxes, 2):
        assert overlap(one, other) < 1e-6


def overlap(one: Box, other: Box) -> float:
    """The area that both cover."""
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return max(0, width) * max(0, height)


def test_equal_tiles_are_squares_where_the_picture_allows() -> None:
    assert {
        (round(box.width, 6), round(box.height, 6)) for box in treemap(dict.fromkeys("abcdefgh", 1), aspect=2)
    } == {(25, 50)}


def test_empty_buckets_stand_between_full_ones() -> None:
    columns = histogram({256: 100, 1024: 500}, doubling=True)
    assert [(box.label, box.value, round(box.height)) for box in columns] == [
        ("256", 100, 20),
        ("512", 0, 0),
        ("1024", 500, 100),
    ]
    assert [box.label for box in histogram({0: 1, 4: 1}, doubling=True)] == ["0", "1", "2", "4"]


@pytest.mark.parametrize(("value", "bucket"), [(0, 0), (1, 1), (2, 2), (3, 2), (1023, 512), (1024, 1024)])
def test_a_bucket_is_the_power_of_two_below(value: int, bucket: int) -> None:
    assert octave(value) == bucket


def test_numbers_read_well() -> None:
    assert (count(1234567), size(999), size(1500), size(999_600), size(2_210_000_000), size(5 * 10**15)) == (
        "1,234,567", "999 B", "1.5 kB", "1 MB", "2.21 GB", "5,000 TB")  # fmt: skip
    assert (share(0), share(0.0000001), share(0.3333), share(1)) == ("0.0 %", "< 0.1 %", "33.3 %", "100.0 %")
