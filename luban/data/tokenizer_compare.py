"""`luban tokenizer compare`: several tokenizers on the same documents, figures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

GROUPS = 12


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much text a token of each tokenizer holds, what it loses, and how fast it is."""

    POSITIONAL: ClassVar[str] = "tokenizers"

    tokenizers: tuple[Path, ...]
    """Folders with a tokenizer: its own, or a model's."""
    data: tuple[Path, ...]
    """Documents folders or files to try them on."""
    holdout: bool = False
    """Take the held-out part of the folders instead."""
    max_bytes: Annotated[int, Ge(0)] = 10_000_000
    """Take the first documents up to this many bytes of text; 0 takes all."""


def run(config: Config) -> dict[str, Any]:
    """Figures of each tokenizer by its folder, on the same documents."""
    from luban.data.sources import read_documents
    from luban.data.vocabulary import Capped
    from luban.errors import DataError
    from luban.tokenizers.files import load
    from luban.tokenizers.report import measure

    tokenizers = {str(folder): load(folder) for folder in config.tokenizers}
    used = Capped(read_documents(config.data, holdout=config.holdout), config.max_bytes)
    samples = list(used.samples_of_all())
    if not used.bytes:
        raise DataError("no text in these documents", where=", ".join(map(str, config.data)))
    results: dict[str, Any] = {}
    for name, tokenizer in tokenizers.items():
        measured = measure(tokenizer, samples)
        speed = round(measured.all.bytes / max(measured.seconds, 1e-9))
        results[name] = {
            "vocab": tokenizer.vocab_size,
            **measured.figures(),
            "bytes_per_second": speed,
        }
    return {
        "documents": used.texts,
        "bytes": used.bytes,
        "capped": used.capped,
        "tokenizers": results,
    }


def show(results: dict[str, Any]) -> None:
    """A table of all, then bytes per token by language and by source."""
    capped = " (the first ones: max_bytes reached)" if results["capped"] else ""
    print(f"{results['documents']:,} documents, {results['bytes']:,} bytes{capped}")
    figures: dict[str, Any] = results["tokenizers"]
    names = short_names(list(figures))
    width = max(map(len, names.values()))
    print(
        f"\n{'':<{width}}  {'ids':>8} {'used':>8} {'bytes/token':>12} {'tokens/word':>12} {'unknown':>9}"
        f" {'changed':>8} {'MB/s':>6}"
    )
    for folder, own in figures.items():
        use = own["vocabulary_use"]["used"]
        print(
            f"{names[folder]:<{width}}  {own['vocab']:>8,} {use:>8,} {own['bytes_per_token']:>12.3f}"
            f" {own['tokens_per_word']:>12.3f} {own['unknown_rate']:>9.3%} {own['changed']:>8,}"
            f" {own['bytes_per_second'] / 1e6:>6.1f}"
        )
    for kind in ("language", "source"):
        _show_groups(kind, figures, names)


def short_names(folders: Sequence[str]) -> dict[str, str]:
    """As much of each path's end as tells them apart."""
    paths = {folder: Path(folder).parts for folder in folders}
    longest = max(map(len, paths.values()))
    for count in range(1, longest + 1):
        short = {folder: "/".join(parts[-count:]) for folder, parts in paths.items()}
        if len(set(short.values())) == len(short):
            return short
    return {folder: folder for folder in folders}


def _show_groups(kind: str, figures: dict[str, Any], names: dict[str, str]) -> None:
    groups = list(next(iter(figures.values()))[f"by_{kind}"])
    if len(groups) < 2:
        return
    more = f" (the {GROUPS} largest of {len(groups)})" if len(groups) > GROUPS else ""
    columns = {folder: max(len(name), 8) for folder, name in names.items()}
    print(f"\nbytes per token by {kind}{more}")
    print(f"{'':<24}" + "".join(f"  {names[folder]:>{size}}" for folder, size in columns.items()))
    for group in groups[:GROUPS]:
        cells = [
            f"  {figures[folder][f'by_{kind}'][group]['bytes_per_token']:>{size}.3f}"
            for folder, size in columns.items()
        ]
        print(f"{group[:24]:<24}" + "".join(cells))
