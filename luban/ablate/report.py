"""The results of an ablation as figures, tables and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from luban.ablate.variants import Corpus, Variant


def compare(
    variant: Variant,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    first: Variant,
    corpora: Mapping[str, Corpus],
    tokens: int,
) -> dict[str, Any]:
    """A variant's bits per byte over seeds, and beside the first one's.

    `against_first` is the mean difference of models with the same seed. `clear`: no seed of the one is as good as
    any of the other; with one seed there is no telling.
    """
    mine = [row["per_byte"] for row in rows[variant.name]]
    theirs = [row["per_byte"] for row in rows[first.name]]
    apart = max(mine) < min(theirs) or min(mine) > max(theirs)
    sources = rows[variant.name][0]["sources"]
    return {
        "epochs": variant.epochs(corpora, tokens),
        "per_byte": mean(mine),
        "low": min(mine),
        "high": max(mine),
        "deviation": stdev(mine) if len(mine) > 1 else None,
        "by_seed": mine,
        "against_first": mean(a - b for a, b in zip(mine, theirs, strict=True)),
        "clear": apart if len(mine) > 1 else None,
        "sources": {name: mean(row["sources"][name] for row in rows[variant.name]) for name in sources},
    }


def show(results: Mapping[str, Any]) -> None:
    """The tables on stdout."""
    from rich.console import Console

    console = Console()
    console.print(_corpora(results))
    console.print(_bits(results))
    console.print(_sources(results))
    seen = {name: row["held_out_seen"] for name, row in results["corpora"].items() if row["held_out_seen"]}
    for name, count in seen.items():
        console.print(
            f"{name} holds {count} of the scored held-out documents word for word: it looks too good"
        )
    if "memorisation" in results:
        console.print(_memorisation(results["memorisation"]))


def _corpora(results: Mapping[str, Any]) -> Any:
    from rich.table import Table

    table = Table("corpus", "documents", "MB", "distinct", "tokens", title="what there is")
    for name, row in results["corpora"].items():
        distinct = f"{row['distinct_bytes'] / row['bytes']:.1%}"
        table.add_row(
            name, f"{row['documents']:,}", f"{row['bytes'] / 1e6:.2f}", distinct, f"{row['tokens']:,}"
        )
    return table


def _bits(results: Mapping[str, Any]) -> Any:
    from rich.table import Table

    first, seeds = next(iter(results["variants"])), len(results["seeds"])
    title = f"bits per byte after {results['tokens']:,} tokens, fewer is better"
    table = Table("variant", "epochs", "mean", "±", f"against {first}", "clear", title=title)
    table.caption = f"± is half of what the {seeds} seeds lie apart" if seeds > 1 else None
    for name, row in results["variants"].items():
        epochs = " + ".join(f"{times:.3g}" for times in row["epochs"].values())
        spread = f"{(row['high'] - row['low']) / 2:.3f}" if seeds > 1 else ""
        against = f"{row['against_first']:+.3f}" if name != first else ""
        clear = {True: "yes", False: "no", None: ""}[row["clear"]] if name != first else ""
        table.add_row(name, epochs, f"{row['per_byte']:.3f}", spread, against, clear)
    return table


def _sources(results: Mapping[str, Any]) -> Any:
    from rich.table import Table

    sources = list(next(iter(results["variants"].values()))["sources"])
    table = Table("variant", *sources, title="bits per byte by source")
    for name, row in results["variants"].items():
        table.add_row(name, *(f"{row['sources'][source]:.3f}" for source in sources))
    return table


def _memorisation(results: Mapping[str, Any]) -> Any:
    from rich.table import Table

    table = Table("planted", "asked", "verbatim", "at most", "logp", "unplanted", "gain")
    table.title = "learnt by heart (at most: 95 % interval; logp: nats per token)"
    for row in results["rows"]:
        error = f" ± {row['gain_error']:.2f}" if row["gain_error"] is not None else ""
        table.add_row(
            str(row["repeats"]),
            str(row["asked"]),
            f"{row['share']:.1%}",
            f"{row['high']:.1%}",
            f"{row['logp']:.2f}",
            f"{row['logp_unplanted']:.2f}",
            f"{row['gain']:+.2f}{error}",
        )
    verdicts = {True: "never falls from row to row, and rises", False: "does not rise from row to row"}
    table.caption = (
        f"share verbatim {verdicts[results['share_rises']]}; gain {verdicts[results['gain_rises']]}"
    )
    return table


def draw(results: Mapping[str, Any], out: Path) -> None:
    """Bits per byte of each variant with all seeds, and memorisation by count, as an SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from luban.folder import atomic_file

    learnt = results.get("memorisation")
    with mpl.rc_context({"svg.hashsalt": "luban"}):
        count = 3 if learnt else 1
        height = max(3.2, 0.45 * len(results["variants"]) + 1.2)
        figure, panes = plt.subplots(
            1, count, figsize=(4.6 * count, height), squeeze=False, constrained_layout=True
        )
        _draw_bits(panes[0][0], results["variants"])
        if learnt:
            _draw_learnt(panes[0][1], panes[0][2], learnt["rows"])
        with atomic_file(out) as work:
            figure.savefig(work, format="svg", metadata={"Date": None})
        plt.close(figure)


def _draw_bits(pane: Any, variants: Mapping[str, Any]) -> None:
    for place, row in enumerate(variants.values()):
        pane.plot(row["by_seed"], [place] * len(row["by_seed"]), "o", color="#4477aa", alpha=0.6)
        pane.plot([row["per_byte"]], [place], "|", color="#222222", markersize=18)
    pane.set_yticks(range(len(variants)), list(variants))
    pane.invert_yaxis()
    pane.set(title="held-out text", xlabel="bits per byte (fewer is better)")
    pane.grid(alpha=0.3, axis="x")


def _draw_learnt(left: Any, right: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    places = range(len(rows))
    shares = [row["share"] for row in rows]
    bars = [
        [row["share"] - max(row["low"], 0) for row in rows],
        [min(row["high"], 1) - row["share"] for row in rows],
    ]
    bars = [[max(value, 0.0) for value in side] for side in bars]
    left.errorbar(places, shares, yerr=bars, marker="o", color="#4477aa", capsize=3)
    left.set(title="continued verbatim", ylabel="share of snippets", ylim=(-0.03, 1.03))
    right.plot(places, [row["logp"] for row in rows], "o-", color="#4477aa", label="planted")
    right.plot(places, [row["logp_unplanted"] for row in rows], "o--", color="#999999", label="not planted")
    right.set(title="how likely", ylabel="log-probability per token")
    right.legend()
    for pane in (left, right):
        pane.set_xticks(places, [str(row["repeats"]) for row in rows])
        pane.set_xlabel("times planted")
        pane.grid(alpha=0.3)
