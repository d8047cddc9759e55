"""Postal addresses with a house number, on text: cheap forms of four languages, far from complete."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

ENGLISH = r"""\b \d{1,5}[A-Za-z]? \ (?:[NSEW]\.?\ )? (?:[A-Z][\w'’.-]{1,20}\ ){1,3}
    (?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Terrace|Highway|Hwy) \b\.?
    (?: ,?\ (?:Apt|Suite|Unit|\#)\.?\ ?\w{1,6} )?
    (?: ,\ (?:[A-Z][\w.'’-]{1,20}\ ?){1,3} ,?\ [A-Z]{2}\ \d{5}(?:-\d{4})? )?"""
GERMAN = r"""\b [A-ZÄÖÜ][\wäöüß.-]{2,24} (?:straße|strasse|str\.|weg|platz|allee|gasse) \ \d{1,4}\ ?[a-z]?\b
    (?: ,\ \d{5}\ [A-ZÄÖÜ][\wäöüß-]{2,30} )?"""
FRENCH = r"""\b \d{1,4} (?:\ ?bis|\ ?ter)? ,?\ (?:rue|avenue|boulevard|place|chemin|allée|impasse|quai)
    \ (?:[\w'’-]{1,20}\ ?){1,5} ,\ \d{5}\ [A-ZÀ-Ý][\w'’-]{1,30}"""
CHINESE = r"""(?:[一-鿿]{2,7}?(?:省|自治区))? (?:[一-鿿]{2,7}?[市州])? [一-鿿]{1,7}?[区县市]
    [一-鿿]{1,12}?(?:路|街|道|巷|胡同) [0-9一二三四五六七八九十百]{1,5}[号弄]
    (?:[0-9]{1,3}(?:号楼|栋|幢|单元|室|层)){0,4}"""


def find_streets(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each, in characters."""
    return (match.span() for match in _pattern().finditer(text))


@functools.cache
def _pattern() -> re.Pattern[str]:
    return re.compile(f"{ENGLISH} | {GERMAN} | {FRENCH} | {CHINESE}", re.VERBOSE)
