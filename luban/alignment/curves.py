"""A run of alignment on one page: is the reward rising, and what is paid for it."""

from __future__ import annotations

from pathlib import Path

from luban.training.metrics import read_log

PANES = {
    "reward": ("rollout/reward", "val/reward"),
    "KL to the reference, nats per answer": ("rollout/kl",),
    "entropy, nats per token": ("rollout/entropy",),
    "answer length, tokens": ("rollout/length",),
    "perplexity of the answers": ("rollout/perplexity", "rollout/reference_perplexity"),
    "held by the clip, share of tokens": ("policy/clipped", "value/clipped"),
    "explained variance": ("value/explained",),
    "answers that end": ("rollout/finished", "val/finished"),
    "seconds": ("seconds/answering", "seconds/scoring", "seconds/reading", "seconds/learning"),
}
"""Title and figures of each pane; one without figures is left empty."""


def save_page(out: Path) -> Path:
    """Draw the run's log as `curves.png`."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    log = read_log(out)
    figure, panes = plt.subplots(3, 3, figsize=(13, 9), constrained_layout=True)
    for pane, (title, names) in zip(panes.flat, PANES.items(), strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in log if line.get(name) is not None]
            if points:
                pane.plot(
                    *zip(*points, strict=True), label=name, marker="o" if name.startswith("val/") else None
                )
        pane.set(title=title, xlabel="iteration")
        pane.grid(alpha=0.3)
        if pane.lines:
            pane.legend()
    part = out / ".curves.part.png"
    figure.savefig(part, dpi=110)
    plt.close(figure)
    return part.replace(out / "curves.png")
