"""The rows of a stage that trains, as one process of its world reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from luban.data.loader import Loader, Source
from luban.training.config import LoopConfig
from luban.training.parallel.world import World


class RowsConfig(Protocol):
    """What the config of such a stage has."""

    @property
    def loop(self) -> LoopConfig: ...
    @property
    def seed(self) -> int: ...


class DocumentsConfig(RowsConfig, Protocol):
    """The same of a stage whose documents stay whole."""

    @property
    def packing(self) -> bool: ...


def rows(
    config: RowsConfig,
    sources: Sequence[Source],
    world: World,
    *,
    epochs: int | None,
    kind: type[Loader] = Loader,
    **layout: Any,
) -> Loader:
    """Batches of `sources` for this copy of the model; `layout` says how rows are made of documents (`Loader`)."""
    return kind(
        sources,
        batch=config.loop.per_device_train_batch_size,
        context=config.loop.max_length,
        seed=config.seed,
        epochs=epochs,
        rank=world.place("dp"),
        world=world.dp,
        **layout,
    )


def whole_documents(
    config: DocumentsConfig,
    sources: Sequence[Source],
    world: World,
    *,
    epochs: int | None,
    kind: type[Loader] = Loader,
) -> Loader:
    """`rows` of documents that are never cut in two: several in a row, or with `packing` off one in each."""
    packing = "pack" if config.packing else "pad"
    return rows(config, sources, world, epochs=epochs, kind=kind, packing=packing, split_documents=False)
