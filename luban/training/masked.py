"""What BERT learns from raw text: words that were hidden, and whether a second text follows a first.

An objective of `pretrain`: rows of documents in, one loss out. What is hidden and which texts are swapped is drawn
anew each time from torch's generator, so a resumed run goes on exactly.

Source: Devlin et al. 2019, section 3.1 and appendix A.1 (arXiv:1810.04805).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from luban.data.batch import IGNORED, Batch
from luban.errors import TokenizerError, TrainingError
from luban.tokenizers.files import FileTokenizer
from luban.training.losses import linear_cross_entropy
from luban.training.step import Objective, Step

HIDDEN_SHARE = 0.15
"""Of all ordinary tokens; the model is to say what they were."""
SHOWN_AS_MASK, SHOWN_AS_OTHER = 0.8, 0.1
"""Of those: shown as [MASK], as another token at random; the rest is shown as it is."""
SWAPPED_SHARE = 0.5
"""Of the pairs whose second text is another row's."""
FOLLOWS, SWAPPED = 0, 1
"""What the head for pairs says of a second text."""
MARKS_OF_A_PAIR = 3


@dataclass(frozen=True)
class Vocabulary:
    """The ids that the objective writes itself, and which ones are ordinary: hidden, and put in others' place."""

    cls: int
    sep: int
    pad: int
    mask: int
    ordinary: Bool[Tensor, " vocab"]

    @classmethod
    def of(cls, tokenizer: FileTokenizer) -> Vocabulary:
        """The tokenizer's; raises TokenizerError naming the special token that it lacks."""
        roles = {
            "cls_token": tokenizer.cls_id,
            "sep_token": tokenizer.sep_id,
            "pad_token": tokenizer.pad_id,
            "mask_token": tokenizer.mask_id,
        }
        ids = {role: number for role, number in roles.items() if number is not None}
        if missing := roles.keys() - ids.keys():
            raise TokenizerError(
                f"the tokenizer has no {', '.join(sorted(missing))}: masked training writes all of {', '.join(roles)}",
                where="setting 'tokenizer'",
                hint="luban tokenizer train --type wordpiece",
            )
        ordinary = torch.ones(tokenizer.vocab_size, dtype=torch.bool)
        ordinary[list(tokenizer.special_tokens.values())] = False
        return cls(ids["cls_token"], ids["sep_token"], ids["pad_token"], ids["mask_token"], ordinary)

    def to(self, device: torch.device) -> Vocabulary:
        """The same one, its table on `device`."""
        return Vocabulary(self.cls, self.sep, self.pad, self.mask, self.ordinary.to(device))


@dataclass(frozen=True)
class Pairs:
    """Rows of `[CLS] A [SEP] B [SEP]`, padded on the right."""

    tokens: Int[Tensor, "batch seq"]
    segments: Int[Tensor, "batch seq"]
    """1 from B's first token to the last [SEP], else 0."""
    valid: Bool[Tensor, "batch seq"]
    labels: Int[Tensor, " batch"]
    """FOLLOWS, SWAPPED, or IGNORED for a row without two tokens of text."""


@dataclass(frozen=True)
class Piece:
    """For each row of a new batch, a run of tokens of the old one."""

    rows: Int[Tensor, " batch"]
    starts: Int[Tensor, " batch"]
    lengths: Int[Tensor, " batch"]

    def read(
        self, tokens: Int[Tensor, "batch seq"], at: Int[Tensor, "batch seq"]
    ) -> Int[Tensor, "batch seq"]:
        """The token at each place `at` of the piece; outside of it, any."""
        places = (self.starts[:, None] + at).clamp(0, tokens.shape[1] - 1)
        return tokens[self.rows].gather(1, places)


def masked_tokens(
    model: Any, tokenizer: FileTokenizer, hidden: Callable[..., Tensor] | None = None
) -> Objective:
    """The objective of a masked family: the loss of hidden words, and of pairs where the model has a head for them.

    Both are means in the paper; here a batch's mean over pairs is added once per hidden word, so that the
    division by all of them leaves it a mean. `hidden` replaces `model.hidden`, compiled for example.
    """
    vocabulary = Vocabulary.of(tokenizer).to(model.embedding.weight.device)

    def objective(model: Any, batch: Batch) -> Step:
        read = hidden or model.hidden
        if not model.config.pair_head:
            seen, targets = hide(batch.tokens, vocabulary)
            states = read(seen, batch.positions, model.isolate(batch.documents))
            return Step(word_loss(model, states, targets), _count(targets))
        pairs = pair_up(batch.tokens, batch.documents, vocabulary)
        seen, targets = hide(pairs.tokens, vocabulary)
        states = read(seen, None, model.padded(pairs.valid), None, pairs.segments)
        words = word_loss(model, states, targets)
        return Step(words + _count(targets) * pair_loss(model, states, pairs.labels), _count(targets))

    return objective


def hide(
    tokens: Int[Tensor, "batch seq"], vocabulary: Vocabulary
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """What the model is shown instead of `tokens`, and the targets: the hidden ones, else `IGNORED`.

    Each ordinary token is hidden with the same chance, by itself; special tokens never are.
    """
    chances, kinds = torch.rand(2, *tokens.shape, device=tokens.device)
    hidden = (chances < HIDDEN_SHARE) & vocabulary.ordinary[tokens]
    known = vocabulary.ordinary.nonzero().squeeze(1)
    others = known[torch.randint(len(known), tokens.shape, device=tokens.device)]
    seen = tokens.masked_fill(hidden & (kinds < SHOWN_AS_MASK), vocabulary.mask)
    seen = torch.where(hidden & (kinds >= 1 - SHOWN_AS_OTHER), others, seen)
    return seen, tokens.masked_fill(~hidden, IGNORED)


def pair_up(
    tokens: Int[Tensor, "batch seq"], documents: Int[Tensor, "batch seq"], vocabulary: Vocabulary
) -> Pairs:
    """Each row's longest piece of one document, cut in halves; half of the second halves are other rows'.

    A swapped one is no longer than the one it replaces; it may be another part of the same document, which makes
    it harder to tell than in the paper. Shorter pieces in the same row are left out. Raises TrainingError where
    there is no other row, or no room.
    """
    rows, seq = tokens.shape
    if rows < 2 or seq < MARKS_OF_A_PAIR + 2:
        raise TrainingError(
            f"{rows} rows of {seq} tokens make no pairs of texts: at least 2 of {MARKS_OF_A_PAIR + 2} do",
            hint="loop.per_device_train_batch_size, loop.max_length",
        )
    starts, lengths = longest_pieces(_is_text(tokens, vocabulary), documents)
    usable = lengths >= 2
    lengths = lengths.clamp(max=seq - MARKS_OF_A_PAIR) * usable
    own, source = torch.arange(rows, device=tokens.device), _swapped(usable)
    first = Piece(own, starts, lengths // 2)
    rest = lengths - first.lengths
    second = Piece(source, (starts + first.lengths)[source], torch.minimum(rest, rest[source]))
    place = torch.arange(seq, device=tokens.device)
    end = (first.lengths + second.lengths + MARKS_OF_A_PAIR)[:, None]
    segments = (place > first.lengths[:, None] + 1) & (place < end)
    labels = torch.where(source == own, FOLLOWS, SWAPPED).masked_fill(~usable, IGNORED)
    return Pairs(_laid_out(tokens, first, second, vocabulary), segments.long(), place < end, labels)


def longest_pieces(
    text: Bool[Tensor, "batch seq"], documents: Int[Tensor, "batch seq"]
) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """In each row, start and length of the longest run of text within one document."""
    goes_on = torch.zeros_like(text)
    goes_on[:, 1:] = text[:, :-1] & (documents[:, 1:] == documents[:, :-1])
    piece = (text & ~goes_on).cumsum(1) * text  # 0 where there is no text
    lengths = torch.zeros(len(text), text.shape[1] + 1, dtype=torch.long, device=text.device)
    lengths.scatter_add_(1, piece, text.long())
    longest = lengths.argmax(1, keepdim=True)
    starts = (piece == longest).long().argmax(1)
    return starts, lengths.gather(1, longest).squeeze(1)


def word_loss(
    model: Any, states: Float[Tensor, "batch seq dim"], targets: Int[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """Summed cross-entropy, in nats, of the hidden words."""
    kept = targets != IGNORED
    head = model.head
    return linear_cross_entropy(head.transformed(states[kept]), head.weight, targets[kept], bias=head.bias)


def pair_loss(
    model: Any, states: Float[Tensor, "batch seq dim"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, of whether each second text follows its first."""
    loss = F.cross_entropy(model.follows(states).float(), labels, ignore_index=IGNORED, reduction="sum")
    return loss / max(1, _count(labels))


def _count(targets: Tensor) -> int:
    return int((targets != IGNORED).sum())


def _is_text(tokens: Tensor, vocabulary: Vocabulary) -> Bool[Tensor, "batch seq"]:
    marks = torch.tensor([vocabulary.cls, vocabulary.sep, vocabulary.pad], device=tokens.device)
    return ~torch.isin(tokens, marks)


def _swapped(usable: Bool[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """For each row, whose second text it gets: its own, or with an even chance another usable row's."""
    rows = torch.arange(len(usable), device=usable.device)
    candidates = usable.nonzero().squeeze(1)
    if len(candidates) < 2:
        return rows
    rank = usable.long().cumsum(0) - 1
    shift = torch.randint(1, len(candidates), rows.shape, device=rows.device)
    others = candidates[(rank + shift) % len(candidates)]
    swap = torch.rand(len(rows), device=rows.device) < SWAPPED_SHARE
    return torch.where(swap & usable, others, rows)


def _laid_out(
    tokens: Int[Tensor, "batch seq"], first: Piece, second: Piece, vocabulary: Vocabulary
) -> Int[Tensor, "batch seq"]:
    """`[CLS] A [SEP] B [SEP]` of each row's two pieces."""
    place = torch.arange(tokens.shape[1], device=tokens.device)[None]
    border = first.lengths[:, None] + 1
    end = border + second.lengths[:, None] + 1
    row = torch.full_like(tokens, vocabulary.pad)
    row[:, 0] = vocabulary.cls
    row = torch.where((place >= 1) & (place < border), first.read(tokens, at=place - 1), row)
    row = torch.where((place > border) & (place < end), second.read(tokens, at=place - border - 1), row)
    return row.masked_fill((place == border) | (place == end), vocabulary.sep)
