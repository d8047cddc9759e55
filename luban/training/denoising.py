"""What BART and T5 learn from raw text: to write again what was taken from it.

An objective of `pretrain`: each row of a batch becomes a damaged source and its target, by the family's own noise,
drawn anew each time from torch's generator, so that a resumed run goes on exactly. A row is one text, as in both
papers: documents packed into it see each other; BART's sentences stay within theirs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luban.data.batch import IGNORED, Batch
from luban.data.corrupt import BART_NOISE, Noise, corrupt, drop_spans, sentinels_needed
from luban.errors import TokenizerError
from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.kinds import MASK, SENTINEL
from luban.training.answers import Sides, learn_targets
from luban.training.step import Objective, Step

INFILLING = Noise(infilling=0.3)
ENDINGS = (".", "!", "?", "。", "！", "？", "…")
AFTER_ENDINGS = " \t\r\n\"'”’»)]）」』"
"""What may still follow an ending within its sentence."""

Example = tuple[np.ndarray, np.ndarray]
"""A source and its target."""
Damage = Callable[[Sequence[np.ndarray], np.random.Generator], Example | None]
"""From the pieces of documents in a row to an example; None where there is too little text."""


@dataclass(frozen=True)
class Infilling:
    """Masked spans, and the other noises of a mixture: the source is the damaged text, the target the whole one.

    Both end with the end token, for which a row that fills the model's window gives up its last one.
    """

    noise: Noise
    mask: int
    end: int
    specials: np.ndarray
    sentence_ends: np.ndarray
    room: int

    def __call__(self, pieces: Sequence[np.ndarray], rng: np.random.Generator) -> Example | None:
        pieces = self._ended(pieces)
        source = np.concatenate([self._damaged(piece, rng) for piece in pieces])
        # In a row of a few tokens, masks that stand for nothing may outnumber what the others replace.
        return source[: self.room], np.concatenate(pieces)

    def _ended(self, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        *others, last = pieces
        if last[-1] == self.end:
            return [*others, last]
        excess = max(0, sum(map(len, pieces)) + 1 - self.room)
        return [*others, np.append(last[: len(last) - excess], self.end)]

    def _damaged(self, piece: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The piece with noise on its text; begin and end tokens stay where they are."""
        special = np.isin(piece, self.specials)
        start, stop = int(special[0]), len(piece) - int(special[-1])
        text = corrupt(piece[start:stop], self.noise, rng, mask=self.mask, sentence_ends=self.sentence_ends)
        return np.concatenate([piece[:start], text, piece[max(start, stop) :]])


@dataclass(frozen=True)
class MissingSpans:
    """Spans behind sentinels: the source lacks them, the target is them alone; both end with the end token."""

    sentinels: Sequence[int]
    end: int
    specials: np.ndarray

    def __call__(self, pieces: Sequence[np.ndarray], rng: np.random.Generator) -> Example | None:
        row = np.concatenate(pieces)
        text = row[~np.isin(row, self.specials)]  # as if documents were cut from one stream
        if len(text) < 2:
            return None
        source, target = drop_spans(text, rng, sentinels=self.sentinels)
        return np.append(source, self.end), np.append(target, self.end)


def infilling(config: Any, tokenizer: FileTokenizer, noise: Noise = INFILLING) -> Damage:
    """Noise with masks; raises TokenizerError where the tokenizer has no mask or no end token."""
    mask = tokenizer.special_tokens.get(MASK, tokenizer.mask_id)
    if mask is None:
        raise TokenizerError(
            f"the tokenizer has no mask token '{MASK}', which '{config.model_type}' models learn to replace",
            where="setting 'tokenizer'",
            hint=f"luban tokenizer train --special-tokens '{MASK}', and the shards again",
        )
    return Infilling(
        noise=noise,
        mask=mask,
        end=_end(config, tokenizer),
        specials=_specials(tokenizer),
        sentence_ends=sentence_ends(tokenizer),
        room=config.context,
    )


def missing_spans(config: Any, tokenizer: FileTokenizer) -> Damage:
    """T5's noise; raises TokenizerError where the tokenizer has no sentinel or no end token."""
    sentinels = sentinels_of(tokenizer)
    if not sentinels:
        raise TokenizerError(
            f"the tokenizer has no sentinels '{SENTINEL.format(0)}', ..., which '{config.model_type}' models write",
            where="setting 'tokenizer'",
            hint="luban tokenizer train --sentinels 100, and the shards again",
        )
    return MissingSpans(sentinels, _end(config, tokenizer), _specials(tokenizer))


DAMAGES: Mapping[str, Callable[[Any, FileTokenizer], Damage]] = {
    "bart": lambda config, tokenizer: infilling(config, tokenizer, BART_NOISE),
    "t5": missing_spans,
}
"""By family; all others learn `infilling`."""


def damage_for(config: Any, tokenizer: FileTokenizer, *, longest: int | None = None) -> Damage:
    """The family's noise; raises TokenizerError where the tokenizer lacks what it writes.

    `longest` is how many tokens rows will have, if that is known: so many sentinels must there be.
    """
    damage = DAMAGES.get(config.model_type, infilling)(config, tokenizer)
    if isinstance(damage, MissingSpans) and longest and len(damage.sentinels) < sentinels_needed(longest):
        raise TokenizerError(
            f"the tokenizer has {len(damage.sentinels)} sentinels; rows of {longest} tokens need "
            f"{sentinels_needed(longest)}",
            where="setting 'tokenizer'",
            hint="luban tokenizer train --sentinels 100, and the shards again; or a smaller loop.max_length",
        )
    return damage


def denoising(model: Any, tokenizer: FileTokenizer) -> Objective:
    """The objective of an encoder-decoder on raw text."""
    damage = damage_for(model.config, tokenizer)

    def objective(model: Any, batch: Batch) -> Step:
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        examples = [example for row in texts_of(batch) if row and (example := damage(row, rng))]
        sides = side_by_side(examples, pad=model.config.pad_id or 0)
        return learn_targets(model, Sides(*(side.to(batch.tokens.device) for side in sides)))

    return objective


def texts_of(batch: Batch) -> Iterator[list[np.ndarray]]:
    """Each row's pieces of documents, padding left out."""
    rows = (part.cpu().numpy() for part in (batch.tokens, batch.targets, batch.documents))
    for tokens, targets, documents in zip(*rows, strict=True):
        borders = np.flatnonzero(np.diff(documents)) + 1
        pieces = zip(np.split(tokens, borders), np.split(targets, borders), strict=True)
        yield [piece for piece, following in pieces if (following != IGNORED).any()]


def side_by_side(examples: Sequence[Example], *, pad: int) -> Sides:
    """Examples as one batch; none at all is a source without a target."""
    sources, targets = zip(*examples, strict=True) if examples else ([np.array([pad])], [np.array([IGNORED])])
    lengths = torch.tensor([len(source) for source in sources])
    source = _padded(sources, pad)
    return Sides(source, torch.arange(source.shape[1]) < lengths[:, None], _padded(targets, IGNORED))


def sentinels_of(tokenizer: FileTokenizer) -> list[int]:
    """Ids of the tokenizer's sentinels, in their order."""
    names = map(SENTINEL.format, itertools.count())
    known = itertools.takewhile(tokenizer.special_tokens.__contains__, names)
    return [tokenizer.special_tokens[name] for name in known]


def sentence_ends(tokenizer: FileTokenizer) -> np.ndarray:
    """Ids of the tokens that end a sentence or a line."""
    texts = (tokenizer.decode([number]) for number in range(tokenizer.vocab_size))
    return np.array([number for number, text in enumerate(texts) if _ends_sentence(text)], np.int64)


def _ends_sentence(text: str) -> bool:
    return text.rstrip(AFTER_ENDINGS).endswith(ENDINGS) or "\n" in text


def _end(config: Any, tokenizer: FileTokenizer) -> int:
    if tokenizer.eos_id is None:
        raise TokenizerError(
            f"the tokenizer has no end token, with which '{config.model_type}' models end an answer",
            where="setting 'tokenizer'",
        )
    return tokenizer.eos_id


def _specials(tokenizer: FileTokenizer) -> np.ndarray:
    """Begin and end tokens, which stand around documents."""
    return np.array([token for token in (tokenizer.bos_id, tokenizer.eos_id) if token is not None])


def _padded(rows: Sequence[np.ndarray], fill: int) -> Tensor:
    parts = [torch.from_numpy(np.ascontiguousarray(row, np.int64)) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill)
