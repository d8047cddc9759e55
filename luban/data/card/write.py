"""`write_card(folder, facts)`: `index.html`, a page without any outer resource, and `card.md` for dataset hubs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luban import __version__
from luban.data.card.facts import Amount, Facts
from luban.data.card.layout import flow, histogram, treemap
from luban.folder import home, write_text

TEMPLATES = Path(__file__).parent
SHOWN = 700
"""Characters of a sample that the page shows."""
TREEMAP_ASPECT = 2.4
UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
# Hugging Face's own classes of dataset sizes, by documents.
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
         (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"),
         (10**12, "100B<n<1T"))  # fmt: skip
HUB_LICENSES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gfdl", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "mpl-2.0", "odc-by",
    "odbl", "pddl", "unlicense",
}  # fmt: skip
"""Names that Hugging Face's card header knows; all else is `other` there."""


def write_card(folder: Path, facts: Facts) -> Path:
    """Write `index.html` and `card.md` into `folder`; returns the page's path."""
    page = folder / "index.html"
    write_text(page, render(facts, "page.html"))
    write_text(folder / "card.md", render(facts, "card.md"))
    return page


def render(facts: Facts, template: str) -> str:
    """The text of `page.html` or `card.md`."""
    import jinja2

    compiled = home() / "templates"  # compiling them takes longer than filling them in
    compiled.mkdir(parents=True, exist_ok=True)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        bytecode_cache=jinja2.FileSystemBytecodeCache(str(compiled)),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"count": count, "size": size, "share": share, "cell": cell}
    return environment.get_template(template).render(
        facts=facts,
        flow=flow(facts),
        reasons=_reasons(facts),
        changes=_changes(facts),
        lengths=histogram(facts.lengths, doubling=True),
        clusters=histogram(facts.clusters, doubling=True),
        dates=histogram(facts.dates, doubling=False),
        treemap=treemap(
            {name: amount.bytes for name, amount in facts.sources.items()}, aspect=TREEMAP_ASPECT
        ),
        tables=[table for table in _tables(facts) if table[2]],
        shown=SHOWN,
        header=_header(facts),
        version=__version__,
    )


def count(value: float) -> str:
    """12345 as 12,345."""
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes in the unit that leaves 1 to 999 of it: 1.2 GB."""
    for unit, one in UNITS:
        if value >= 0.9995 * one:  # what would be rounded to 1000 of the smaller unit
            return f"{value / one:.3g} {unit}" if value < 999.5 * one else f"{value / one:,.0f} {unit}"
    return f"{value:.0f} B"


def share(value: float) -> str:
    """A share in percent; what is not nothing is never shown as nothing."""
    percent = 100 * value
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %"


def cell(value: str) -> str:
    """Text that stays inside one cell of a Markdown table, and is only text there."""
    escaped = "".join(f"\\{sign}" if sign in "\\`*_[]<>|#" else sign for sign in value)
    return " ".join(escaped.split())


def _reasons(facts: Facts) -> list[tuple[str, str, int]]:
    """Stage, reason and documents dropped, the most frequent first."""
    rows = [(stage.name, reason, n) for stage in facts.stages for reason, n in stage.dropped.items()]
    return sorted(rows, key=lambda row: -row[2])


def _changes(facts: Facts) -> list[tuple[str, str, int]]:
    rows = [(stage.name, rule, n) for stage in facts.stages for rule, n in stage.changed.items()]
    return sorted(rows, key=lambda row: -row[2])


def _tables(facts: Facts) -> list[tuple[str, str, list[tuple[str, Amount]]]]:
    """Anchor, heading and rows of what was kept by language and by licence."""
    return [
        ("languages", "Languages", _ranked(facts.languages)),
        ("licences", "Licences", _ranked(facts.licenses)),
    ]


def _ranked(amounts: Mapping[str, Amount]) -> list[tuple[str, Amount]]:
    return sorted(amounts.items(), key=lambda item: -item[1].bytes)


def _header(facts: Facts) -> str:
    """The YAML header of a dataset card as the hub reads it."""
    import yaml

    header: dict[str, Any] = {"pretty_name": facts.title}
    licenses = [name.lower() for name, _ in _ranked(facts.licenses)]
    if licenses:
        known = [name for name in licenses if name in HUB_LICENSES]
        header["license"] = known if known == licenses else [*known, "other"]
    if facts.languages:
        header["language"] = [
            code for code, _ in _ranked(facts.languages) if code.isalpha() and code != "unknown"
        ]
    if facts.after:
        bound = (label for most, label in SIZES if facts.after.documents < most)
        header["size_categories"] = [next(bound, "n>1T")]
    header["tags"] = ["text", "luban"]
    if facts.files:
        files = [{"split": split, "path": path} for split, path in facts.files.items()]
        header["configs"] = [{"config_name": "default", "data_files": files}]
    return yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()
