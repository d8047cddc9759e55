"""Stage `classify apply`: what a trained classifier says of new texts; where their labels are known, how good it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from luban.device import DeviceConfig
from luban.errors import ConfigError
from luban.tuning.labelled import Columns

SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Classify texts: `luban classify apply --model OUT/final --text "free prize"`."""

    model: Path
    """The `final/` of `luban classify`, or another model folder with a head for classes."""
    text: tuple[str, ...] = ()
    """Texts to classify."""
    data: tuple[Path, ...] = ()
    """Files of texts, in the formats of `luban classify`; labels are compared where rows have them."""
    out: Path | None = None
    """Folder for predictions.jsonl, and the report where all labels are known; nothing shows predictions only."""
    columns: Columns = field(default_factory=Columns)
    batch: Annotated[int, Ge(1)] = 32
    """Texts in one forward pass."""

    def __post_init__(self) -> None:
        if bool(self.text) == bool(self.data):
            raise ConfigError(
                "there is nothing to classify, or both texts and files", hint="--text or --data"
            )


def run(config: Config) -> dict[str, Any]:
    """Read the texts; returns predictions, or with `out` how many and, where labels are known, the report's totals."""
    from luban import device
    from luban.folder import stage_folder
    from luban.tuning.class_report import PREDICTIONS, write_report
    from luban.tuning.classified import open_reader, predictions, write_predictions

    reader = open_reader(config.model, device=device.start(config, seed=None))
    rows = _rows(config, reader)
    if config.out is None:
        made = reader.probabilities(rows, batch=config.batch)
        return {"predictions": predictions(rows, made, reader)}
    inputs = [config.model, *config.data]
    with stage_folder(config.out, stage="classify apply", config=config, inputs=inputs) as (folder, metrics):
        metrics["rows"] = len(rows)
        if all(row.labels for row in rows):
            metrics |= write_report(folder, reader, rows, known=[], batch=config.batch)
        else:
            made = reader.probabilities(rows, batch=config.batch)
            write_predictions(folder / PREDICTIONS, rows, made, reader)
    return metrics


def show(results: dict[str, Any]) -> None:
    """Print each text with its label and probability, or what is in the folder."""
    for line in results.get("predictions", [])[:SHOWN]:
        given = line["label"] if isinstance(line["label"], list) else [line["label"]]
        chosen = ", ".join(f"{label} {line['probabilities'][label]:.3f}" for label in given) or "none"
        print(f"{chosen}\t{' '.join(line['text'].split())[:80]}")
    if (more := len(results.get("predictions", [])) - SHOWN) > 0:
        print(f"and {more:,} more: --out FOLDER keeps them all")
    for key, value in results.items():
        if key != "predictions":
            print(f"{key}: {value}")


def _rows(config: Config, reader: Any) -> list[Any]:
    from luban.data.rejected import raise_rejected
    from luban.tuning.labelled import Labelled, check_labels, read_labelled

    if config.text:
        return [Labelled(text=text, where=f"--text {number}") for number, text in enumerate(config.text, 1)]
    several = reader.multi_label
    read = read_labelled(config.data, config.columns, reject=raise_rejected, multi_label=several, known=False)
    rows = list(read)
    for row in rows:
        check_labels(row, reader.labels)
    return rows
