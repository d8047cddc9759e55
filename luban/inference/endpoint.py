"""A model behind an OpenAI-compatible endpoint, as far as the loop of generation can use one.

`POST URL/completions` is asked, with the rows as token ids, for the next token's likeliest candidates. Only those are
known: `hidden` gives their log-probabilities and rules out all other tokens, so what is drawn from is the model's
distribution cut to them and made to sum to 1. `told` keeps how much of the whole they had.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.errors import MachineError, ModelError, PromptError
from luban.inference.sampling import NEVER
from luban.nn.cache import Cache
from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.spelling import Spelling
from luban.tokenizers.stream import BROKEN

TIMEOUT_S = 120
BY_NUMBER = "token_id:"
"""How vLLM spells a token where it is asked to tell ids."""


@dataclass(frozen=True)
class EndpointConfig:
    """What the loop asks of a model's config; the states of a remote model are its logits."""

    vocab: int
    context: int

    @property
    def dim(self) -> int:
        return self.vocab


class Transcript:
    """The slot of a remote model: the rows of tokens it will be asked about."""

    def __init__(self, batch: int) -> None:
        self.rows: list[list[int]] = [[] for _ in range(batch)]

    def read(self, tokens: Int[Tensor, "batch seq"], positions: Int[Tensor, "batch seq"]) -> None:
        """Put each token at its place in its row; padding, all at place 0, is overwritten by the first token."""
        for row, ids, places in zip(self.rows, tokens.tolist(), positions.tolist(), strict=True):
            for token, place in zip(ids, places, strict=True):
                row[place:] = [token]

    def advance(self, tokens: int) -> None:
        """See `LayerCache.advance`; places say here how far a row has come."""

    def select(self, rows: Int[Tensor, " batch"]) -> None:
        """See `LayerCache.select`."""
        self.rows = [list(self.rows[row]) for row in rows.tolist()]


class Endpoint:
    """The model `served_model` behind `url`, for generation only; `tokenizer` is taken to be its own.

    An empty `served_model` is the first that `GET url/models` lists. `top` is how many candidates are asked for: a
    server may give fewer. Raises MachineError if there is no answer.
    """

    def __init__(
        self,
        url: str,
        tokenizer: FileTokenizer,
        *,
        context: int,
        served_model: str = "",
        top: int = 20,
        api_key: str = "",
    ) -> None:
        self.url, self.top = url.rstrip("/"), top
        self._key = api_key
        self.name = served_model or str(self._listed())
        self.config = EndpointConfig(vocab=tokenizer.vocab_size, context=context)
        self.embedding = nn.Embedding(1, 1)  # tells the loop where, and in what type, to compute
        self.told: list[float] = []
        """For each token that was asked for: the probability of all the candidates together."""
        self._ids = token_ids(tokenizer)

    def make_cache(self, *, batch: int, capacity: int, valid: Tensor | None = None) -> Cache:  # noqa: ARG002 - the loop's
        """A slot that remembers the tokens."""
        return [Transcript(batch)]

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch 1 vocab"]:
        """The candidates' log-probabilities after the last token; raises PromptError where more is asked for."""
        if cache is None or positions is None:
            what = "an endpoint tells what comes next, not how likely a text is"
            raise PromptError(what, where=self.url, hint="score with a model on this machine")
        (transcript,) = cache
        transcript.read(tokens, positions)
        request = {"model": self.name, "prompt": transcript.rows, "max_tokens": 1, "temperature": 1.0}
        answer = self._ask("completions", request | {"logprobs": self.top})
        return torch.stack([self._logps(told) for told in self._candidates(answer, len(transcript.rows))])

    def head(self, states: Float[Tensor, "... vocab"]) -> Float[Tensor, "... vocab"]:
        """The states: they are logits already."""
        return states

    def _listed(self) -> object:
        """The first model the server has."""
        try:
            return self._ask("models")["data"][0]["id"]
        except (KeyError, IndexError, TypeError):
            raise MachineError("the endpoint lists no model", where=f"{self.url}/models") from None

    def _candidates(self, answer: Any, rows: int) -> list[Mapping[str, float]]:
        """Each row's candidates as the server spells them."""
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            found = [choice["logprobs"]["top_logprobs"][0] for choice in choices]
        except (KeyError, IndexError, TypeError):
            what = "the answer has no top_logprobs"
            hint = "a server whose completions have logprobs by token, as vLLM's"
            raise ModelError(what, where=self.url, hint=hint) from None
        if len(found) != rows:
            raise ModelError(f"{len(found)} answers to {rows} prompts", where=self.url)
        return found

    def _logps(self, told: Mapping[str, float]) -> Float[Tensor, "1 vocab"]:
        known = {number: logp for text, logp in told.items() if (number := self._id(text)) is not None}
        if not known:
            what = f"none of the candidates {sorted(told)} is one token of the tokenizer"
            raise ModelError(what, where=self.url, hint="the endpoint's model needs the expert's tokenizer")
        self.told.append(math.fsum(map(math.exp, known.values())))
        logps = torch.full((1, self.config.vocab), NEVER)
        logps[0, list(known)] = torch.tensor(list(known.values()))
        return logps

    def _id(self, text: str) -> int | None:
        """Which token a server means; None if it is none of the tokenizer's, or one of several."""
        number = text.removeprefix(BY_NUMBER)
        if number != text and number.isdecimal():
            return int(number) if int(number) < self.config.vocab else None
        return self._ids.get(text)

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The server's answer to a GET, or to a POST of `body`."""
        url = f"{self.url}/{path}"
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(url, data=data, headers=headers)
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read(300).decode("utf-8", "replace")
            raise MachineError(f"the endpoint answered {error.code}: {said}", where=url) from None
        except (OSError, ValueError) as error:
            raise MachineError(f"no usable answer from the endpoint: {error}", where=url) from None


def token_ids(tokenizer: FileTokenizer) -> dict[str, int]:
    """Each token's id by the texts a server may spell it with; texts that several tokens share are left out.

    Byte-level vocabularies are spelled as text, SentencePiece's with spaces for their signs, and parts of characters by
    their bytes, as OpenAI and our own server do.
    """
    pieces = tokenizer.vocabulary()
    ids = {piece.replace("▁", " "): number for piece, number in pieces.items()} | pieces
    texts = {number: tokenizer.decode([number], skip_special=False) for number in pieces.values()}
    spelling = Spelling(tokenizer)
    texts |= {number: spelling.text(number) for number, text in texts.items() if BROKEN in text}
    times = Counter(texts.values())
    return ids | {text: number for number, text in texts.items() if times[text] == 1}
