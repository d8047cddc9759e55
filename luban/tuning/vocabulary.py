"""`luban tokenizer extend`: new tokens for a tokenizer, and rows for them in its model.

A new token's row is the mean of the rows of what its text was cut into before, in the embedding and in the head:
it begins by meaning what the model read and wrote until now. A special token stands for no text and gets the mean
of all rows. Either way its logit is the mean of old logits, so its probability is at most the mean of theirs
(exp is convex), and the greedy choice stays an old token. Sources: Gee et al. 2022, Fast Vocabulary Transfer
(arXiv:2402.09977); Hewitt 2021, Initializing New Word Embeddings for Pretrained Language Models, for the bound.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.errors import ConfigError, DataError, ModelError
from luban.folder import stage_folder

if TYPE_CHECKING:
    from luban.models.base import CausalLM
    from luban.tokenizers.added import Extension

SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Config:
    """Add tokens to a tokenizer, and to the model it belongs to."""

    model: Path
    """A model's folder, or a tokenizer's alone."""
    out: Path
    """The folder to make."""
    add: tuple[str, ...] = ()
    """New tokens. A space in front belongs to the token, which then also begins longer words (" cat", " category")."""
    file: Path | None = None
    """A file with one new token per line."""
    special: bool = False
    """They stand for no text, like the marks of a chat: only templates write them."""

    def __post_init__(self) -> None:
        if not self.add and self.file is None:
            raise ConfigError("there is nothing to add", hint="--add TOKEN... or --file tokens.txt")


def run(config: Config) -> dict[str, Any]:
    """Make the folder; returns what was added and skipped, and the sizes before and after."""
    from luban.models.hf import CONFIG
    from luban.tokenizers.added import with_tokens
    from luban.tokenizers.files import load

    wanted = [*config.add, *_lines(config.file)]
    inputs = (config.model, *([config.file] if config.file else []))
    tokenizer = load(config.model)
    with stage_folder(config.out, stage="tokenizer extend", config=config, inputs=inputs) as (
        folder,
        metrics,
    ):
        made = with_tokens(tokenizer, wanted, special=config.special)
        if (config.model / CONFIG).is_file():
            metrics.update(_extend_model(config, made, folder))
        else:
            made.tokenizer.save(folder)
        metrics.update(
            added=len(made.added),
            tokens={text: {"id": number, "was": made.before[text]} for text, number in made.added.items()},
            skipped=made.skipped,
            vocab_before=tokenizer.vocab_size,
            vocab=made.tokenizer.vocab_size,
        )
    if not made.added:
        print("tokenizer extend: nothing was new", file=sys.stderr)
    return metrics


def show(results: dict[str, Any]) -> None:
    """Counts, and the first new tokens."""
    skipped = ", ".join(f"{count} {reason}" for reason, count in results["skipped"].items()) or "none"
    print(f"added      {results['added']:,} tokens; skipped: {skipped}")
    print(f"tokenizer  {results['vocab_before']:,} -> {results['vocab']:,} ids")
    if "rows" in results:
        tied = ", tied" if results["tied"] else ", embedding and head"
        print(f"model      {results['rows_before']:,} -> {results['rows']:,} rows{tied}")
    for text, token in list(results["tokens"].items())[:SHOWN]:
        print(f"  {token['id']:>7} {text!r} was {len(token['was'])} tokens")


def resize(model: CausalLM, made: Extension, *, special: bool) -> None:
    """Give each new token its row, and the model as many rows as ids; all old rows stay, tied ones stay tied.

    Rows that the model had beyond the tokenizer's ids (padding) are used before new ones are made.
    """
    import dataclasses

    import torch

    rows = max(model.config.vocab, made.tokenizer.vocab_size)
    old = min(made.added.values(), default=rows)  # ids from here on were nobody's
    layers = [model.embedding] if model.config.tied else [model.embedding, model.head]
    for layer in layers:
        weight = layer.weight.detach()
        grown = torch.zeros(rows, weight.shape[1], dtype=weight.dtype)
        grown[: len(weight)] = weight
        known = weight[:old].float()
        for text, number in made.added.items():
            ids = [] if special else made.before[text]
            grown[number] = (known[ids] if ids else known).mean(dim=0).to(weight.dtype)
        layer.weight = torch.nn.Parameter(grown)
    if model.config.tied:
        model.tie()
    model.embedding.num_embeddings = rows
    if model.head is not None:  # an encoder may have none
        model.head.out_features = rows
        _extend_bias(model.head, rows)
    fixed: Any = getattr(model, "final_bias", None)
    if fixed is not None:  # BART's, which stands apart from its head
        grown = torch.nn.functional.pad(fixed.detach(), (0, rows - fixed.shape[1]))
        model.final_bias = torch.nn.Parameter(grown, requires_grad=False)
    model.config = dataclasses.replace(model.config, vocab=rows)


def _extend_bias(head: Any, rows: int) -> None:
    """A bias of 0 for each new token, where the head has biases (BERT's)."""
    import torch

    if head.bias is not None:
        new = head.bias.new_zeros(rows - len(head.bias))
        head.bias = torch.nn.Parameter(torch.cat([head.bias.detach(), new]))


def _extend_model(config: Config, made: Extension, folder: Path) -> dict[str, Any]:
    from luban.models import FAMILIES, hf
    from luban.training.checkpoint import write_model_folder

    model = hf.load(config.model, dtype="auto")
    if FAMILIES[model.config.model_type].kind == "counted":
        hint = "extend the tokenizer alone, make the shards again and count them"
        raise ModelError("an n-gram model has no rows for new tokens", where=config.model, hint=hint)
    before = model.config.vocab
    resize(model, made, special=config.special)
    write_model_folder(folder, model, made.tokenizer)
    return {"rows_before": before, "rows": model.config.vocab, "tied": model.config.tied}


def _lines(path: Path | None) -> Sequence[str]:
    if path is None:
        return []
    if not path.is_file():
        raise DataError("no such file", where=path)
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.reason} at byte {error.start}", where=path) from None
