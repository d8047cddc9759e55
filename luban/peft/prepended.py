"""What a model has read before every text: the mechanism of all prompt methods.

It is put before each row, and before each document packed into one, and cut from the states that come out, so that
objectives, scoring and generation are as without. Tokens stand behind it: their positions begin at its length. A
`Reading` does this in the model's three ways of reading: whole rows (`hidden` without slots), packed rows (`isolate`)
and decoding (`make_cache`, where it is read once, into the slots).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from luban.errors import ConfigError
from luban.nn import surgery
from luban.nn.cache import Cache
from luban.peft.adapter import Adapter, Stored, freeze

SHAPES = ("token_dim", "num_attention_heads", "num_layers", "num_transformer_submodules")
"""Entries of `peft`'s that the model tells."""
METHODS_OF_READING = ("hidden", "isolate", "make_cache")

Hidden = Callable[..., Tensor]
"""A model's `hidden`, as it is without a prompt."""


class Widened:
    """Where things stand in rows that have `length` more places before each document; None: one document a row."""

    def __init__(self, length: int, documents: Int[Tensor, "batch seq"] | None = None) -> None:
        self.length = length
        self.source: Tensor | None = None
        """For each place of a widened row which of prompt + row stands there; None: just these."""
        if documents is not None:
            self._lay_out(documents)

    def _lay_out(self, documents: Int[Tensor, "batch seq"]) -> None:
        """Rows of fewer documents than others are filled up with a last one that holds nothing."""
        batch, seq = documents.shape
        begins = torch.ones_like(documents)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        number = begins.cumsum(1)  # of the token's document, from 1
        tokens = torch.arange(seq, device=documents.device).expand(batch, seq)
        self.places = tokens + self.length * number
        wide = seq + self.length * int(number.max())
        places = torch.arange(wide, device=documents.device).expand(batch, wide)
        is_token = torch.zeros_like(places).scatter(1, self.places, 1).bool()
        before = torch.where(is_token, places, -1).cummax(1).values  # the last token at or before a place
        in_prompt = (places - before - 1).clamp(max=self.length - 1)
        self.source = in_prompt.scatter(1, self.places, self.length + tokens)
        ended = torch.zeros_like(places).scatter(1, self.places, number).cummax(1).values
        self.documents = torch.where(is_token, ended, ended + 1)

    def widen(
        self, prompt: Float[Tensor, "1 length ..."], x: Float[Tensor, "batch seq ..."]
    ) -> Float[Tensor, "batch wide ..."]:
        """`x` with `prompt` before each document."""
        both = torch.cat([prompt.to(x.dtype).expand(x.shape[0], *prompt.shape[1:]), x], 1)
        return both if self.source is None else _taken(both, self.source)

    def narrow(self, y: Float[Tensor, "batch wide ..."]) -> Float[Tensor, "batch seq ..."]:
        """Only what is the rows' own; the inverse of `widen`."""
        return y[:, self.length :] if self.source is None else _taken(y, self.places)


def _taken(x: Tensor, places: Int[Tensor, "batch some"]) -> Float[Tensor, "batch some ..."]:
    """What stands at `places` of each row."""
    index = places.view(*places.shape, *[1] * (x.ndim - 2))
    return x.gather(1, index.expand(*places.shape, *x.shape[2:]))


class Packed(list[Any]):
    """Slots for packed rows, widened."""

    def __init__(self, slots: Cache, widened: Widened) -> None:
        super().__init__(slots)
        self.widened = widened


class Begun(list[Any]):
    """Slots of decoding that have the prompt in them."""


class Prompt(Stored):
    """What is read first. It stands in the embedding but leaves that as it is; any share above 0 is all of it."""

    length: int
    needs_slots = False
    """Whether `read` asks for slots of plain rows too."""

    def read(
        self, hidden: Hidden, x: Tensor, positions: Tensor, widened: Widened, slots: Cache | None
    ) -> Float[Tensor, "batch seq dim"]:
        """States of rows of embeddings `x` at `positions`; `slots` are of widened rows, None for plain rows."""
        raise NotImplementedError

    def begin(self, hidden: Hidden, slots: Cache, batch: int, dtype: torch.dtype) -> None:
        """Have it in empty `slots`, in the model's `dtype`; who calls advances them."""
        raise NotImplementedError

    def settle(self) -> None:
        """Have only what a file holds, without what it is made by in training."""


class Reading:
    """A model's own ways of reading, and in their place those that begin with `prompt`."""

    def __init__(self, model: Any, prompt: Prompt) -> None:
        self.embedding, self.prompt = model.embedding, prompt
        self.plain = {way: getattr(model, way) for way in METHODS_OF_READING}
        for way in METHODS_OF_READING:
            setattr(model, way, getattr(self, way))

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"] | None,
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
        embeds: Float[Tensor, "batch seq dim"] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """The model's `hidden`, for texts that follow the prompt. Raises ConfigError for slots it is not in."""
        plain = self.plain["hidden"]
        if not self.prompt.share:
            assert not isinstance(cache, Packed | Begun), "the slots were made for reading with the prompt"
            return plain(tokens, positions, cache, embeds)
        if positions is None:
            known: Any = tokens if embeds is None else embeds
            positions = torch.arange(known.shape[1], device=known.device)[None]
        positions = positions + self.prompt.length
        if isinstance(cache, Begun):
            return plain(tokens, positions, cache, embeds)
        if cache is not None and not isinstance(cache, Packed):
            what = "these slots were made without the prompt that this model begins with"
            raise ConfigError(what, hint="model.make_cache or model.isolate, after the prompt is applied")
        x = self.embedding(tokens) if embeds is None else embeds
        if cache is not None:
            return self.prompt.read(plain, x, positions, cache.widened, cache)
        slots = self._slots(x) if self.prompt.needs_slots else None
        return self.prompt.read(plain, x, positions, Widened(self.prompt.length), slots)

    def isolate(self, documents: Int[Tensor, "batch seq"]) -> Cache:
        """Slots for packed rows, each document of which has the prompt before it."""
        if not self.prompt.share:
            return self.plain["isolate"](documents)
        widened = Widened(self.prompt.length, documents)
        return Packed(self.plain["isolate"](widened.documents), widened)

    def make_cache(self, *, batch: int, capacity: int, valid: Tensor | None = None) -> Cache:
        """Slots in which the prompt has been read, with room for `capacity` tokens behind it."""
        length = self.prompt.length
        if not self.prompt.share:
            return self.plain["make_cache"](batch=batch, capacity=capacity, valid=valid)
        whole = None if valid is None else F.pad(valid, (length, 0), value=True)
        slots = self.plain["make_cache"](batch=batch, capacity=length + capacity, valid=whole)
        self.prompt.begin(self.plain["hidden"], slots, batch, self.embedding.weight.dtype)
        for slot in slots:
            slot.advance(length)
        return Begun(slots)

    def _slots(self, x: Float[Tensor, "batch seq dim"]) -> Cache:
        """Slots for rows as long as `x` with the prompt."""
        wide = self.prompt.length + x.shape[1]
        return self.plain["isolate"](torch.zeros(x.shape[0], wide, dtype=torch.int64, device=x.device))


class Prepended(Adapter):
    """A prompt before every text that the model reads."""

    @property
    def places(self) -> int:
        """See `Adapter.places`: as many as the prompt is long."""
        return self.prompt().length

    def prompt(self) -> Prompt:
        """The part that is trained."""
        part = self.model.embedding.attached[self.name]
        assert isinstance(part, Prompt)
        return part

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """See `Adapter.tensors`; a prompt is of no layer."""
        return {"": self.prompt().tensors()}

    def fit(self, held: Mapping[str, Mapping[str, Tensor]]) -> None:  # noqa: ARG002 - a file's prompt is made
        """See `Adapter.fit`."""
        self.prompt().settle()

    def remove(self) -> None:
        """See `Adapter.remove`."""
        super().remove()
        for way in METHODS_OF_READING:
            delattr(self.model, way)

    def entries(self, names: Mapping[str, str]) -> dict[str, Any]:
        """See `Adapter.entries`."""
        config = self.model.config
        sizes = (config.dim, config.heads, len(self.model.blocks), 1)
        return {**super().entries(names), **dict(zip(SHAPES, sizes, strict=True))}


def check(model: Any) -> None:
    """Raise ConfigError for a model that no prompt can be put before."""
    if not all(callable(getattr(model, way, None)) for way in METHODS_OF_READING) or hasattr(model, "encode"):
        what = f"a prompt needs a model that continues a text; a {type(model).__name__} does not"
        raise ConfigError(what, where="peft.method")
    if isinstance(getattr(model.hidden, "__self__", None), Reading):
        raise ConfigError(
            "this model begins with a prompt already", where="peft.method", hint="remove() it first"
        )


def prepend(model: Any, prompt: Prompt, name: str) -> None:
    """Have `model`, from now on frozen, read `prompt` before every text."""
    freeze(model)
    surgery.attach(model.embedding, name, prompt.to(model.embedding.weight.device))
    Reading(model, prompt)


def words(model: Any, length: int, ids: Sequence[int] = ()) -> Int[Tensor, " length"]:
    """`length` token ids to begin with: `ids` over and over, or tokens at random where there are none.

    Raises ConfigError for an id beyond the vocabulary.
    """
    vocab = model.embedding.num_embeddings
    if beyond := [number for number in ids if not 0 <= number < vocab]:
        raise ConfigError(
            f"{beyond[0]} is no token id; the model has 0 to {vocab - 1}", where="peft.init_ids"
        )
    return (
        torch.tensor([ids[n % len(ids)] for n in range(length)]) if ids else torch.randint(vocab, (length,))
    )
