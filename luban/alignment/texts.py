"""The text of PPO's pretraining mix: token shards of the policy's own vocabulary, as batches without end."""

from __future__ import annotations

from luban.alignment.ppo_config import PretrainingConfig
from luban.data.loader import Loader
from luban.data.shard_sources import shard_sources
from luban.tokenizers.files import FileTokenizer
from luban.training.parallel.world import ALONE, World


def open_texts(
    config: PretrainingConfig, tokenizer: FileTokenizer, *, seed: int, world: World = ALONE
) -> Loader | None:
    """Batches of the shards for this process; None where there are none.

    Raises ConfigError for shards of another vocabulary.
    """
    if not config.data:
        return None
    sources = shard_sources(config.data, tokenizer.vocab_size, owner="model")
    return Loader(
        sources,
        batch=config.rows,
        context=config.max_length,
        seed=seed,
        rank=world.place("dp"),
        world=world.dp,
    )
