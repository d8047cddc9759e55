"""The pool of pages: who holds what, what is found again, what goes first when room is needed."""

from __future__ import annotations

import pytest

from luban.errors import ConfigError
from luban.inference.engine.job import Job, page_key
from luban.inference.engine.pages import PagePool


def job(tokens: list[int]) -> Job:
    return Job(id="j", arrived=0.0, prompt=len(tokens), budget=1, tokens=tokens)


def test_a_page_is_free_when_its_last_holder_lets_go() -> None:
    pool = PagePool(pages=3, page_size=4)
    pages = pool.take(2)
    pool.hold(pages)
    pool.release(pages)
    assert pool.free == 1
    pool.release(pages)
    assert pool.free == 3


def test_a_content_is_found_until_its_room_is_needed_the_oldest_going_first() -> None:
    pool = PagePool(pages=3, page_size=1)
    keys = [page_key(b"", [n]) for n in range(3)]
    pages = pool.take(3)
    for page, key in zip(pages, keys, strict=True):
        pool.publish(page, key)
    for page in (pages[1], pages[0], pages[2]):
        pool.release([page])
    assert pool.free == 3
    assert pool.find(keys[:1]) == pages[:1]
    pool.take(1)
    assert pool.find(keys[1:2]) == [], "page 1 was released first"
    assert pool.find(keys[:1]) == pages[:1]


def test_holding_a_found_page_keeps_it_from_being_reused() -> None:
    pool = PagePool(pages=2, page_size=1)
    first, second = pool.take(2)
    pool.publish(first, b"a")
    pool.release([first, second])
    pool.hold([first])
    assert pool.take(1) == [second]
    assert pool.free == 0


def test_a_beginning_is_found_as_far_as_it_is_here() -> None:
    pool = PagePool(pages=4, page_size=2)
    known = job([1, 2, 3, 4, 5]).hash_pages(2)
    for page, key in zip(pool.take(2), known, strict=True):
        pool.publish(page, key)
    assert len(pool.find(job([1, 2, 3, 4, 9, 9]).hash_pages(2))) == 2
    assert len(pool.find(job([1, 2, 3, 9, 5, 6]).hash_pages(2))) == 1
    assert pool.find(job([9, 2, 3, 4]).hash_pages(2)) == [], (
        "the same page after another beginning is another"
    )


def test_the_same_tokens_after_another_beginning_are_another_content() -> None:
    assert job([1, 2, 3, 4]).hash_pages(2)[1] != job([9, 9, 3, 4]).hash_pages(2)[1]


def test_the_hashes_of_a_growing_text_are_those_of_the_whole() -> None:
    growing = job([1, 2, 3])
    growing.hash_pages(2)
    growing.tokens += [4, 5]
    assert growing.hash_pages(2) == job([1, 2, 3, 4, 5]).hash_pages(2)


def test_waste_is_the_room_without_tokens_in_last_pages() -> None:
    pool = PagePool(pages=8, page_size=4)
    one, other = job([0] * 6), job([0] * 8)
    one.pages, one.computed = pool.take(2), 6
    other.pages, other.computed = pool.take(2), 8
    assert pool.waste([one, other]) == 2 / 16


def test_the_check_finds_a_lost_page_and_one_held_for_nobody() -> None:
    pool = PagePool(pages=2, page_size=4)
    one = job([0])
    one.pages = pool.take(1)
    pool.check([one])
    with pytest.raises(AssertionError, match="1 holders, in 0 tables"):
        pool.check([])
    pool.holders[one.pages[0]] = 0
    one.pages = []
    with pytest.raises(AssertionError, match="not free"):
        pool.check([])


def test_a_pool_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 pages of 16 tokens"):
        PagePool(pages=0, page_size=16)


def test_what_was_known_is_forgotten_when_the_weights_change() -> None:
    pool = PagePool(pages=2, page_size=1)
    pages = pool.take(1)
    pool.publish(pages[0], b"a")
    pool.release(pages)
    pool.forget()
    assert pool.find([b"a"]) == []
    pool.check([])
