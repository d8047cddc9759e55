"""Dates as pages state them, in ISO 8601 to the precision that they have."""

from __future__ import annotations

import re
from datetime import UTC, datetime

DAY = re.compile(r"(\d{4})([-/.])(\d\d?)\2(\d\d?)$")
MONTH = re.compile(r"(\d{4})(?:-(?:0[1-9]|1[0-2]))?$")
EARLIEST_YEAR = 1000
"""A program's "never" is often the year 1."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Another "never"."""


def iso_date(stated: str) -> str | None:
    """`2024`, `2024-05`, `2024-05-06` or a time of that day; None if it is no date, or one that stands for none."""
    stated = stated.strip()
    if month := MONTH.match(stated):
        return stated if int(month[1]) >= EARLIEST_YEAR else None
    day = DAY.match(stated)
    try:
        when = datetime(int(day[1]), int(day[3]), int(day[4])) if day else datetime.fromisoformat(stated)
    except ValueError:
        return None
    if when.year < EARLIEST_YEAR or (not day and when.replace(tzinfo=when.tzinfo or UTC) == EPOCH):
        return None
    return when.date().isoformat() if day or len(stated) == len("20240506") else _instant(when)


def _instant(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")
