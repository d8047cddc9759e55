"""The text of PPO's pretraining mix: token shards of the policy's own vocabulary, as batches without end."""

from __future__ import annotations

from luban.alignment.ppo_config import PretrainingConfig
from luban.data.loader import Loader, Source
from luban.data.shards import TokenShards
from luban.errors import ConfigError
from luban.tokenizers.files import FileTokenizer


def open_texts(config: PretrainingConfig, tokenizer: FileTokenizer, *, seed: int) -> Loader | None:
    """Batches of the shards; None where there are none. Raises ConfigError for shards of another vocabulary."""
    if not config.data:
        return None
    sources: list[Source] = []
    for path in config.data:
        shards = TokenShards.open(path)
        if shards.vocab != tokenizer.vocab_size:
            what = (
                f"the shards hold ids of a vocabulary of {shards.vocab}, the model has {tokenizer.vocab_size}"
            )
            raise ConfigError(what, where=path, hint="make the shards with the model's tokenizer")
        sources.append(Source(examples=shards, weight=float(shards.tokens), name=str(path)))
    return Loader(sources, batch=config.rows, context=config.max_length, seed=seed)
