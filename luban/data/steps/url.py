"""The URL filter: what an address alone says against a page, before anything costlier looks at it.

Three lists of hosts and addresses and three of words. A host is looked up with each of its parent domains; the
words are found in one pass of one pattern over the address.
"""

from __future__ import annotations

import functools
import gzip
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from luban.data.step import Batch, Drop, Outcome
from luban.errors import DataError

LISTS = Path(__file__).parent / "url_lists"
CURATED = "curated_domains.txt"
LOCAL = frozenset(("0.0.0.0", "127.0.0.1", "::1", "::", "localhost"))
RULE = re.compile(r"^\|\|([^/^$*]+)\^")
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True)
class UrlFilter:
    """Drops pages by their address; a document without `url` in its meta stays.

    `url_domain`: the host or one above it is on a list. `url_address`: the very page or folder is.
    `url_curated`: a source that is mixed in from a better copy. `url_strict`: a string that is enough anywhere.
    `url_hard`: one such word. `url_soft`: several weaker words.

    Source: RefinedWeb, Penedo et al. 2023, appendix G.1 (arXiv:2306.01116): lists of domains, then words by
    severity (substrings, whole words, two or more soft words), then an exclusion of curated sources. Its lists
    are not public; ours are short and own, and meant to be extended by `domains` and the word settings.
    """

    domains: tuple[Path, ...] = ()
    """Lists of banned hosts: one a line, hosts files, `||host^` rules, or UT1 folders (`domains`, `urls`); .gz too."""
    allow: tuple[str, ...] = ()
    """Hosts that stay whatever the lists say, with all below them."""
    curated: bool = False
    """Drop the sources that recipes mix in on their own (Wikipedia, arXiv, Stack Exchange, GitHub, ...)."""
    builtin: bool = True
    """Use the word lists that come along."""
    strict: tuple[str, ...] = ()
    """More strings that drop a page wherever they stand in its address."""
    hard: tuple[str, ...] = ()
    """More words of which one drops a page."""
    soft: tuple[str, ...] = ()
    """More words of which `soft_limit` different ones drop a page."""
    soft_limit: int = 2
    """Different soft words that are too many."""

    def __call__(self, batch: Batch) -> list[Outcome]:
        rules = _rules(self)
        return [
            rules.judge(url) if (url := document.meta.get("url")) else None for document in batch.documents
        ]


@functools.cache
def _rules(settings: UrlFilter) -> Rules:
    """Read once per process: the step itself stays small enough to travel."""
    return Rules(settings)


class Rules:
    """The lists of one `UrlFilter`, read and ready to judge addresses."""

    def __init__(self, settings: UrlFilter) -> None:
        entries = [entry for path in settings.domains for entry in read_list(path)]
        self._hosts = frozenset(entry for entry in entries if "/" not in entry)
        self._addresses = frozenset(entry for entry in entries if "/" in entry)
        self._allow = frozenset(settings.allow)
        self._curated = frozenset(read_list(LISTS / CURATED) if settings.curated else ())
        words = {name: set(getattr(settings, name)) for name in ("strict", "hard", "soft")}
        if settings.builtin:
            for name, more in words.items():
                more.update(read_list(LISTS / f"{name}_words.txt"))
        self._strict = re.compile("|".join(map(re.escape, sorted(words["strict"]))) or "(?!)")
        self._hard, self._soft = frozenset(words["hard"]), frozenset(words["soft"])
        self._soft_limit = settings.soft_limit

    def judge(self, url: object) -> Drop | None:
        """The first rule that the address breaks."""
        address = unquote(str(url)).lower()
        host, path = split_address(address)
        domains = list(parents(host))
        if not self._allow.isdisjoint(domains):
            return None
        return self._by_list(domains, host, path) or self._by_words(f"{host}/{path}")

    def _by_list(self, domains: list[str], host: str, path: str) -> Drop | None:
        for reason, banned in (("url_domain", self._hosts), ("url_curated", self._curated)):
            for domain in domains:
                if domain in banned:
                    return Drop(reason, domain)
        for page in parents_of_page(host, path) if self._addresses else ():
            if page in self._addresses:
                return Drop("url_address", page)
        return None

    def _by_words(self, address: str) -> Drop | None:
        if found := self._strict.search(address):
            return Drop("url_strict", found.group())
        words = set(WORD.findall(address))
        if hard := words & self._hard:
            return Drop("url_hard", min(hard))
        soft = words & self._soft
        return Drop("url_soft", " ".join(sorted(soft))) if len(soft) >= self._soft_limit else None


def split_address(address: str) -> tuple[str, str]:
    """Host without user, port and `www.`, and what follows its slash without the fragment."""
    scheme, slashes, rest = address.partition("//")
    if not slashes or scheme.strip(":+.-").isalnum() != bool(scheme):
        rest = address
    end = next((at for at, sign in enumerate(rest) if sign in "/?#"), len(rest))
    host = rest[:end].rpartition("@")[2].partition(":")[0].removeprefix("www.").strip(".")
    return host, rest[end:].lstrip("/").partition("#")[0]


def parents(host: str) -> Iterator[str]:
    """`a.b.org`, `b.org`, `org`."""
    while host:
        yield host
        host = host.partition(".")[2]


def parents_of_page(host: str, path: str) -> Iterator[str]:
    """`host/a/b`, `host/a`."""
    page = f"{host}/{path.partition('?')[0]}".rstrip("/")
    while "/" in page:
        yield page
        page = page.rpartition("/")[0]


def read_list(path: Path) -> Iterator[str]:
    """The entries of a list file, or of the `domains` and `urls` files below a folder, in lower case.

    Raises DataError for a file that is not there, and for a line that is no host, address or word.
    """
    if path.is_dir():
        files = sorted(
            file for file in path.rglob("*") if file.stem in ("domains", "urls") and file.is_file()
        )
        if not files:
            raise DataError("no file 'domains' or 'urls' in this folder", where=path)
        for file in files:
            yield from read_list(file)
        return
    if not path.is_file():
        raise DataError("no such list of domains", where=path)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", errors="replace") as lines:
        yield from _entries(lines, path)


def _entries(lines: Iterable[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].lower().split()
        if not words or words[0][0] == "!" or words[0][0] == "[":
            continue
        if words[0] in LOCAL and len(words) > 1:
            yield from (word for word in words[1:] if word not in LOCAL)
        elif rule := RULE.match(words[0]):
            yield rule.group(1)
        elif len(words) == 1:
            yield _plain(words[0])
        else:
            raise DataError(
                f"not a host, an address or a hosts line: {line.strip()!r:.60}", where=f"{path}:{number}"
            )


def _plain(word: str) -> str:
    """A host, or an address as `host/path`."""
    host, page = split_address(word.removeprefix("*."))
    return f"{host}/{page}".rstrip("/") if page else host
