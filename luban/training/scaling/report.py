"""The results of a grid as tables: for a terminal, and as Markdown for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Numbers = Mapping[str, Any]
PUBLISHED = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
"""Hoffmann et al. 2022, eq. 10: another text, another vocabulary, models a thousand times larger."""


@dataclass(frozen=True)
class Sheet:
    """A table before it is drawn."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def show(results: Numbers) -> None:
    """All tables and verdicts on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for sheet in sheets(results):
        table = Table(*sheet.header, title=sheet.title, box=SIMPLE_HEAD, pad_edge=False)
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)
    for line in verdicts(results):
        console.print(line, highlight=False, soft_wrap=True)


def markdown(results: Numbers) -> str:
    """The same for a page of its own."""
    settings = ", ".join(f"{name} {value}" for name, value in results["settings"].items())
    parts = [
        "# A grid in figures",
        f"What all runs share: {settings}. Intervals: {results['resamples']} resamples.",
    ]
    parts += [_page_table(sheet) for sheet in sheets(results)]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in verdicts(results))])


def _page_table(sheet: Sheet) -> str:
    lines = map(_line, (sheet.header, ["---"] * len(sheet.header), *sheet.rows))
    return "\n".join([f"**{sheet.title}**", "", *lines])


def _line(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def sheets(results: Numbers) -> list[Sheet]:
    """Cells, optima, fits, and what was asked for."""
    found = [_cells(results), _optima(results), _fits(results)]
    asked = [results[name] for name in ("for_budget", "for_minutes") if name in results]
    return [*found, *map(_advice, asked)]


def verdicts(results: Numbers) -> list[str]:
    """What the figures do and do not show, a sentence each."""
    falls, body = results["frontier_falls"], results["body_only"]["size_exponent"]
    told = [
        "the frontier falls: each budget's best run is better than all of smaller budgets"
        if falls
        else "the frontier does not fall everywhere: some larger budget's best run is no better",
        f"the law misses a run by {results['law']['error']:.2%} (root mean square)",
        f"with N as the blocks alone, without the head (Kaplan's), N would grow as C^{body:.2f}",
    ]
    told += _not_found(results)
    for name in ("for_budget", "for_minutes"):
        told += [f"{name.replace('_', ' ')}: {line}" for line in results.get(name, {}).get("warnings", [])]
    return told


def _not_found(results: Numbers) -> list[str]:
    """Which budgets tell no best size."""
    inside = {one["budget"] for one in results["isoflop"]["optima"] if one["inside"]}
    left = [f"{row['budget']:.3g}" for row in results["frontier"] if row["budget"] not in inside]
    if not left:
        return []
    return [
        f"no best size between the smallest and the largest at {', '.join(left)} FLOPs: left out of the power law"
    ]


def _cells(results: Numbers) -> Sheet:
    rows = [
        [
            cell["size"],
            f"{cell['weights'] / 1e6:.3f}",
            f"{cell['tokens'] / 1e6:.3f}",
            f"{cell['flops']:.2e}",
            f"{cell['flops_6nd']:.2e}",
            f"{cell['tokens'] / cell['weights']:.2f}",
            f"{cell['loss']:.4f}",
            f"{cell['law_loss']:.4f}",
            f"{cell['bits_per_byte']:.4f}",
        ]
        for cell in results["cells"]
    ]
    header = ("size", "N, M", "D, M", "C", "6ND", "D/N", "nats", "by law", "bpb")
    return Sheet("Runs: N weights, D training tokens, C FLOPs, held-out loss", header, rows)


def _optima(results: Numbers) -> Sheet:
    inside = {one["budget"]: one for one in results["isoflop"]["optima"] if one["inside"]}
    rows = [
        [
            f"{row['budget']:.3g}",
            *(_optimum(inside[row["budget"]]) if row["budget"] in inside else ["none inside", "", "", ""]),
            row["size"],
            f"{row['loss']:.4f}",
        ]
        for row in results["frontier"]
    ]
    header = ("C", "best N, M", "best D, M", "D/N", "lowest nats", "best run", "its nats")
    return Sheet("IsoFLOP: the lowest point of each budget's parabola", header, rows)


def _optimum(one: Numbers) -> list[str]:
    weights, tokens = one["weights"], one["tokens"]
    return [f"{weights / 1e6:.3f}", f"{tokens / 1e6:.3f}", f"{tokens / weights:.1f}", f"{one['loss']:.4f}"]


def _fits(results: Numbers) -> Sheet:
    law, iso = results["law"], results["isoflop"]
    published = {
        **PUBLISHED,
        "size_exponent": PUBLISHED["beta"] / (PUBLISHED["alpha"] + PUBLISHED["beta"]),
        "data_exponent": PUBLISHED["alpha"] / (PUBLISHED["alpha"] + PUBLISHED["beta"]),
    }
    named = {"size_exponent": "a: best N ~ C^a", "data_exponent": "b: best D ~ C^b"}
    rows = [
        [named.get(name, name), *_with_interval(law[name]), f"{value:.3g}"]
        for name, value in published.items()
    ]
    for name, value in (("size_exponent", "0.49"), ("data_exponent", "0.51")):
        if iso[name]:
            rows.append([f"{named[name]}, by IsoFLOP", *_with_interval(iso[name]), value])
    return Sheet("L = E + A / N^alpha + B / D^beta", ("", "fitted", "95 % interval", "Hoffmann et al."), rows)


def _advice(one: Numbers) -> Sheet:
    minutes = f"{one['minutes']:g} minutes, " if "minutes" in one else ""
    rows = [
        ["N, weights", *_with_interval(one["weights"])],
        ["layers x dim of about N", one["size"], ""],
        ["D, tokens", *_with_interval(one["tokens"])],
        ["D/N", f"{one['tokens_per_weight']:.3g}", ""],
        ["held-out nats per token", *_with_interval(one["loss"])],
        ["held-out bits per byte", *_with_interval(one["bits_per_byte"])],
    ]
    if one["isoflop"]:
        rows += [
            [f"{letter} by IsoFLOP", f"{one['isoflop'][name]:.3g}", ""]
            for letter, name in (("N", "weights"), ("D", "tokens"))
        ]
    return Sheet(f"What to train for {minutes}{one['flops']:.3g} FLOPs", ("", "value", "95 % interval"), rows)


def _with_interval(number: Numbers) -> tuple[str, str]:
    """A value and its interval, three digits each."""
    if number["low"] is None:
        return f"{number['value']:.3g}", ""
    return f"{number['value']:.3g}", f"({number['low']:.3g} to {number['high']:.3g})"
