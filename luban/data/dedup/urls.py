"""Duplicates by address: of documents with the same normalised URL one stays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np

from luban.data.dedup.buckets import Parts
from luban.data.dedup.components import drop_copies
from luban.data.dedup.exact import keep_first
from luban.data.step import Batch, Outcome

TRACKING = re.compile(
    r"utm_\w+|[gdy]clid|fbclid|msclkid|gbraid|wbraid|twclid|igshid|mc_[ce]id|_ga|_gl|_hs(enc|mi)"
    r"|phpsessid|jsessionid",
    re.IGNORECASE,
)
"""Query parameters that say who came from where, not what is shown."""
PORTS = {"http": 80, "https": 443}
PATH_SESSION = re.compile(r";jsessionid=[^/?]*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class UrlDuplicates:
    """Drop each document whose `url` another one has, written otherwise perhaps: `duplicate_url`.

    Documents without a url stay. Source: RefinedWeb (Penedo et al. 2023, arXiv:2306.01116), section 3.3; its
    comparison is of the plain string.
    """

    keep: Literal["longest", "first"] = "longest"
    """Which one stays; of equally long ones the first."""

    def collect(self, batch: Batch) -> Mapping[str, np.ndarray]:
        urls = [document.meta.get("url") for document in batch.documents]
        lengths = [len(document.text) for document in batch.documents]
        return {
            "urls": np.array([_key(url) for url in urls], np.uint64),
            "lengths": np.array(lengths, np.float64),
        }

    def resolve(self, parts: Parts, decisions: Sequence[Path], *, memory: int) -> None:
        ranks = "lengths" if self.keep == "longest" else None
        keep_first(parts, "urls", decisions, memory=memory, ranks=ranks)

    def apply(self, batch: Batch, decisions: np.ndarray) -> list[Outcome]:
        return drop_copies(batch, decisions, "duplicate_url")


def normalise(url: str) -> str:
    """The address without what does not change the page.

    Gone: scheme, `www.`, default port, fragment, tracking and session parameters, trailing slash, upper case in
    the host. Parameters are sorted. What is no address comes back as it is, white space at its ends taken off.

    >>> normalise("HTTP://www.Example.org:80/a/?utm_source=x&b=2&a=1#top")
    'example.org/a?a=1&b=2'
    """
    url = url.strip()
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        port = parts.port
    except ValueError:  # brackets that hold no IPv6 address, a port of letters
        return url
    host = (parts.hostname or "").removesuffix(".").removeprefix("www.")
    if port is not None and PORTS.get(parts.scheme or "http") != port:
        host += f":{port}"
    path = PATH_SESSION.sub("", parts.path).rstrip("/")
    query = sorted(
        pair for pair in parse_qsl(parts.query, keep_blank_values=True) if not TRACKING.fullmatch(pair[0])
    )
    return f"{host}{path}?{urlencode(query)}" if query else f"{host}{path}"


def _key(url: object) -> int:
    if not isinstance(url, str) or not url.strip():
        return 0
    digest = hashlib.sha256(normalise(url).encode("utf-8", "surrogatepass")).digest()
    return max(1, int.from_bytes(digest[:8], "little"))
