"""Pages of keys and values, counted: who holds which, which are free, which content is still to be had.

A page is room for `page_size` tokens in every layer. A page with several holders is shared: the same prompt in
n answers, or the same beginning in many requests, found by the hash of its content. A page without holders
whose content is known stays until its room is needed, the least recently used going first. Only numbers live
here; the tensors are in `paged.py`, and a simulation needs none.

Source: Kwon et al. 2023, section 4 (arXiv:2309.06180).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from luban.errors import ConfigError
from luban.inference.engine.job import GONE, Job


class PagePool:
    """A fixed number of pages, given out and taken back one by one."""

    def __init__(self, *, pages: int, page_size: int) -> None:
        """Raises ConfigError unless there is at least one page of at least one token."""
        if pages < 1 or page_size < 1:
            raise ConfigError(f"{pages} pages of {page_size} tokens hold nothing", where="engine")
        self.pages, self.page_size = pages, page_size
        self.holders = [0] * pages
        self._empty = list(range(pages - 1, -1, -1))  # the end is taken first: page 0 before page 1
        self._idle: OrderedDict[int, None] = OrderedDict()  # known content, no holder; the oldest first
        self._found: dict[bytes, int] = {}
        self._content: dict[int, bytes] = {}
        self.asked_tokens = self.hit_tokens = 0

    @property
    def free(self) -> int:
        """Pages that can be taken now."""
        return len(self._empty) + len(self._idle)

    @property
    def used(self) -> int:
        """Pages that somebody holds."""
        return self.pages - self.free

    @property
    def hit_rate(self) -> float:
        """The share of prompt tokens that were found instead of computed."""
        return self.hit_tokens / self.asked_tokens if self.asked_tokens else 0.0

    def needed(self, tokens: int) -> int:
        """Pages for so many tokens."""
        return -(-tokens // self.page_size)

    def take(self, count: int) -> list[int]:
        """That many pages with one holder each, their content undefined. The caller made sure that they are free."""
        assert count <= self.free, f"{count} pages asked for, {self.free} free"
        taken = [self._empty.pop() if self._empty else self._forget_oldest() for _ in range(count)]
        for page in taken:
            self.holders[page] = 1
        return taken

    def hold(self, pages: Iterable[int]) -> None:
        """One more holder for each page."""
        for page in pages:
            if page == GONE:
                continue
            if self.holders[page] == 0:
                del self._idle[page]
            self.holders[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """One holder less for each page. Of a text's pages the last goes to be reused first: fewest begin with it."""
        for page in reversed([page for page in pages if page != GONE]):
            self.holders[page] -= 1
            assert self.holders[page] >= 0, f"page {page} was released by nobody's holder"
            if self.holders[page]:
                continue
            if page in self._content:
                self._idle[page] = None
            else:
                self._empty.append(page)

    def publish(self, page: int, key: bytes) -> None:
        """Let others find this full page by its content; the first page of a content stays the one to be found."""
        if key not in self._found and page not in self._content:
            self._found[key], self._content[page] = page, key

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """The pages of the longest beginning of `keys` that is here; not yet held."""
        found: list[int] = []
        for key in keys:
            page = self._found.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def idle(self, pages: Iterable[int]) -> int:
        """How many of `pages` nobody holds: holding them makes so many fewer free."""
        return sum(page != GONE and self.holders[page] == 0 for page in pages)

    def forget(self) -> None:
        """Know no content any more, as after the weights have changed; no job may hold pages then."""
        assert not self.used, f"{self.used} pages are held"
        while self._idle:
            self._empty.append(self._forget_oldest())

    def waste(self, jobs: Iterable[Job]) -> float:
        """The share of the held pages' room in which there is no token: only last pages have any."""
        unfilled = {
            job.pages[-1]: len(job.pages) * self.page_size - job.computed for job in jobs if job.holds
        }
        return sum(unfilled.values()) / (self.used * self.page_size) if self.used else 0.0

    def check(self, jobs: Iterable[Job]) -> None:
        """Assert that every page is held as often as the tables say, or is free; that none is lost or in two places."""
        counted = Counter(page for job in jobs for page in job.pages if page != GONE)
        for page, holders in enumerate(self.holders):
            assert holders == counted[page], f"page {page}: {holders} holders, in {counted[page]} tables"
        unheld = [page for page, holders in enumerate(self.holders) if holders == 0]
        assert sorted([*self._empty, *self._idle]) == unheld, "a page without holder is not free, or twice"
        assert {page: key for key, page in self._found.items()} == self._content
        assert set(self._idle) <= set(self._content)
        assert not set(self._empty) & set(self._content)

    def _forget_oldest(self) -> int:
        page, _ = self._idle.popitem(last=False)
        del self._found[self._content.pop(page)]
        return page
