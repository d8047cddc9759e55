"""One tiny workspace per test session: real text through the real stages, as a user would make it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

import luban

settings.register_profile("luban", deadline=None)  # a test's first example may compile a kernel
settings.load_profile("luban")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the oracles must never ask a hub


WEB = Path(luban.__file__).parent / "fetch" / "web.tsv.gz"


@dataclass(frozen=True)
class Workspace:
    """Folders that the stages made."""

    raw: Path
    documents: Path
    tokenizer: Path
    shards: Path
    held_out: Path
    rows: Path
    model: Path


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Chapters of the shipped text as documents, a vocabulary, shards, question rows and a random tiny model."""
    import torch

    from luban.data import prepare, shards, vocabulary
    from luban.fetch import bible
    from luban.tokenizers.files import load
    from luban.training.checkpoint import write_model_folder
    from tests import tiny

    root = tmp_path_factory.mktemp("workspace")
    made = Workspace(
        *(root / name for name in ("raw", "documents", "tok", "shards", "held", "rows.jsonl", "model"))
    )
    made.raw.mkdir()
    verses = [
        (name, text)
        for name, text in bible.chapters(WEB)
        if name.startswith(("Ruth", "Mark", "Jonah", "James"))
    ]
    lines = [json.dumps({"id": name, "text": "\n".join(text)}) for name, text in verses]
    (made.raw / "chapters.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [json.dumps(row) for name, text in verses for row in bible.questions(name, text)]
    made.rows.write_text("\n".join(rows[::6]) + "\n", encoding="utf-8")
    prepare.run(prepare.Config(data=(made.raw,), out=made.documents, holdout=4))
    vocabulary.run(vocabulary.Config(data=(made.documents,), out=made.tokenizer, vocab=384))
    for out, holdout in ((made.shards, False), (made.held_out, True)):
        config = shards.Config(data=(made.documents,), tokenizer=made.tokenizer, out=out, holdout=holdout)
        shards.run(config)
    torch.manual_seed(0)
    made.model.mkdir()
    write_model_folder(made.model, tiny.llama(context=256), load(made.tokenizer))
    return made


@pytest.fixture
def ray_ends() -> Iterator[None]:
    """Ends the processes that a test's Ray engine started."""
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
