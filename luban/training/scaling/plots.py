"""The grid as a picture: IsoFLOP curves, loss over size and data with the law, and the frontier of compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from luban.folder import atomic_file
from luban.training.scaling.analysis import Analysis
from luban.training.scaling.law import FLOPS_PER_WEIGHT
from luban.training.scaling.points import frontier

NAME = "scaling"


def draw(analysis: Analysis, out: Path) -> list[Path]:
    """Write `scaling.png` and `scaling.svg` into `out`; returns their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "luban"}):
        figure, panes = plt.subplots(2, 2, figsize=(11, 8), constrained_layout=True)
        _isoflop(panes[0, 0], analysis)
        _frontier(panes[0, 1], analysis)
        _over_tokens(panes[1, 0], analysis)
        _over_weights(panes[1, 1], analysis)
        for pane in panes.flat:
            pane.set(xscale="log", ylabel="held-out loss, nats per token")
            pane.grid(alpha=0.3)
        paths = [_save(figure, out / f"{NAME}.png", dpi=110), _save(figure, out / f"{NAME}.svg")]
        plt.close(figure)
    return paths


def _save(figure: Any, path: Path, **settings: Any) -> Path:
    kind = path.suffix.removeprefix(".")
    with atomic_file(path) as work:
        figure.savefig(work, format=kind, metadata={"Date": None} if kind == "svg" else None, **settings)
    return path


def _isoflop(pane: Any, analysis: Analysis) -> None:
    sizes = np.array(sorted({point.weights for point in analysis.points}), float)
    fine = np.geomspace(sizes[0] / 1.2, sizes[-1] * 1.2, 100)
    fitted = {one.budget: one for one in analysis.optima}
    for budget, colour in _colours(sorted({point.budget for point in analysis.points})):
        runs = [point for point in analysis.points if point.budget == budget]
        pane.plot(
            [p.weights for p in runs], [p.loss for p in runs], "o", color=colour, label=f"{budget:.3g} FLOPs"
        )
        if one := fitted.get(budget):
            pane.plot(fine, np.polyval(one.parabola, np.log(fine)), color=colour, alpha=0.6)
        if one and one.inside:
            pane.plot([one.weights], [one.loss], "x", color="#222222", markersize=9)
    pane.set(title="IsoFLOP curves; x: the best size", xlabel="N, weights")
    pane.legend(fontsize=8)


def _frontier(pane: Any, analysis: Analysis) -> None:
    for size, colour in _colours(_sizes(analysis)):
        runs = [point for point in analysis.points if point.size == size]
        pane.plot([p.flops for p in runs], [p.loss for p in runs], "o", color=colour, alpha=0.7, label=size)
    best = frontier(analysis.points)
    pane.plot([p.flops for p in best], [p.loss for p in best], "-", color="#222222", label="frontier")
    span = np.geomspace(best[0].flops / 2, best[-1].flops * 10, 60)
    pane.plot(
        span, [analysis.law.loss(*analysis.law.best(c)) for c in span], "--", color="#888888", label="law"
    )
    pane.set(title="best loss for compute", xlabel="C, FLOPs")
    pane.legend(fontsize=8)


def _over_tokens(pane: Any, analysis: Analysis) -> None:
    for size, colour in _colours(_sizes(analysis)):
        runs = sorted((p for p in analysis.points if p.size == size), key=lambda p: p.tokens)
        pane.plot([p.tokens for p in runs], [p.loss for p in runs], "o", color=colour, label=size)
        span = np.geomspace(runs[0].tokens, runs[-1].tokens, 40)
        pane.plot(span, [analysis.law.loss(runs[0].weights, d) for d in span], color=colour, alpha=0.6)
    pane.set(title="loss over data, one line per size; lines: the law", xlabel="D, tokens")
    pane.legend(fontsize=8)


def _over_weights(pane: Any, analysis: Analysis) -> None:
    for budget, colour in _colours(sorted({point.budget for point in analysis.points})):
        runs = sorted((p for p in analysis.points if p.budget == budget), key=lambda p: p.weights)
        pane.plot(
            [p.weights for p in runs], [p.loss for p in runs], "o", color=colour, label=f"{budget:.3g} FLOPs"
        )
        span = np.geomspace(runs[0].weights, runs[-1].weights, 60)
        compute = float(np.median([p.flops_6nd for p in runs]))
        law = [analysis.law.loss(n, compute / FLOPS_PER_WEIGHT / n) for n in span]
        pane.plot(span, law, color=colour, alpha=0.6)
    pane.set(title="loss over size, one line per budget; lines: the law", xlabel="N, weights")
    pane.legend(fontsize=8)


def _sizes(analysis: Analysis) -> list[str]:
    return [size for _, size in sorted({(point.weights, point.size) for point in analysis.points})]


def _colours(names: list[Any]) -> list[tuple[Any, Any]]:
    """Each name with its colour, from dark to light."""
    import matplotlib as mpl

    shades = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(names)))
    return list(zip(names, shades, strict=True))
