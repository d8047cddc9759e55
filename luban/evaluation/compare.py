"""What stages that compare several models have in common: short names for folders, and a folder for results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luban.errors import ConfigError
from luban.folder import atomic_file, stage_folder


def named(models: Sequence[str]) -> dict[str, str]:
    """Each model by the last part of its path that is not `final`, or by its whole path where two are alike.

    Raises ConfigError where there is none, or one twice.
    """
    if not models or len(set(models)) < len(models):
        raise ConfigError("give one or more models, each once", where="setting 'models'")
    short = [_short(model) for model in models]
    return dict(zip(short if len(set(short)) == len(short) else models, models, strict=True))


@contextlib.contextmanager
def results_folder(
    config: Any, *, stage: str, files: Sequence[Path] = ()
) -> Iterator[tuple[Path | None, dict[str, Any]]]:
    """`folder.stage_folder` at `config.out`, made from `config.models` and `files`; None where there is no `out`."""
    if config.out is None:
        yield None, {}
        return
    inputs = [path for path in (*map(Path, config.models), *files) if path.exists()]
    with stage_folder(config.out, stage=stage, config=config, inputs=inputs) as place:
        yield place


def save_picture(figure: Any, path: Path) -> None:
    """Write `figure` as a PNG, whole or not at all, and let go of it."""
    import matplotlib.pyplot as plt

    with atomic_file(path) as work:
        figure.savefig(work, format="png", dpi=110)
    plt.close(figure)


def panes(count: int, *, width: float, height: float) -> tuple[Any, Sequence[Any]]:
    """A figure of `count` panes side by side, for a file and no screen."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, row = plt.subplots(
        1, count, figsize=(width * count, height), squeeze=False, constrained_layout=True
    )
    return figure, row[0]


def _short(model: str) -> str:
    parts = [part for part in Path(model).parts if part != "final"]
    return parts[-1] if parts else model
