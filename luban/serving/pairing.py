"""Pairs of answers in the making: which prompt is next, which model stands where, and the thread that writes.

1. `current` gives the first open pair, and sees to it that one more is being written behind it
2. the thread adds a piece to each answer of the first open pair that is not done: by turns, so that neither the
   order nor the speed tells which model it is
3. `vote` keeps a row in the ledger and settles the pair; `undo` cuts the row off and opens the pair again
4. a pair that nobody can judge (two times the same answer, an empty one) is set aside, and that is told
"""

from __future__ import annotations

import dataclasses
import random
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from luban.errors import PromptError
from luban.inference.session import ChatLM
from luban.lm import Message, Sampling
from luban.serving.prefer_prompts import Prompt, typed
from luban.serving.votes import Answer, ConflictError, Ledger, Mode, Vote, row_of, undecided_row

AHEAD = 1
"""Pairs that are written while people read the one before."""
FAULTS = {
    "identical": "both answers came out the same",
    "empty": "an answer came out empty",
}


class Side:
    """One answer as it grows."""

    def __init__(self, model: str, seed: int, begin: Callable[[], Iterator[str]]) -> None:
        self.model, self.seed = model, seed
        self.text = ""
        self.finish_reason: str | None = None
        self.ended = False
        self._begin, self._pieces = begin, None

    def advance(self) -> None:
        """Add the next piece, if there is one."""
        if self.ended:
            return
        self._pieces = self._pieces or self._begin()
        try:
            self.text += next(self._pieces)
        except StopIteration as end:
            self.finish_reason, self.ended = end.value, True
            self._pieces = None  # and with it the model's cache

    def answer(self) -> Answer:
        """The answer as it is kept."""
        return Answer(
            model=self.model, seed=self.seed, text=self.text.strip(), finish_reason=self.finish_reason
        )


@dataclass(kw_only=True)
class Pair:
    """Two answers to a prompt, `a` and `b` as they stand on the page."""

    id: str
    prompt: Prompt
    a: Side
    b: Side
    done: bool = False
    """Whether nothing more will be written."""
    fault: str = ""
    """Why nobody can judge it, one of FAULTS, once it is done."""

    def advance(self) -> None:
        """Add a piece to each answer; at the end find out whether the pair can be judged."""
        self.a.advance()
        self.b.advance()
        if self.a.ended and self.b.ended:
            a, b = self.a.text.strip(), self.b.text.strip()
            self.fault = "empty" if not (a and b) else "identical" if a == b else ""
            self.done = True  # last of all: the other thread looks at any time


class Pairing:
    """All that the page asks about. One thread calls the methods, another one, its own, writes the answers."""

    def __init__(
        self,
        models: Mapping[str, ChatLM],
        prompts: Sequence[Prompt],
        ledger: Ledger,
        *,
        mode: Mode,
        sampling: Sampling,
        seed: int,
        again: bool = False,
    ) -> None:
        """`models` are one or two, by the names that rows call them; with `again` prompts are asked once more."""
        self.models, self.ledger, self.sampling = models, ledger, sampling
        self.mode: Mode = mode
        self.seed, self.total = seed, len(prompts)
        self.waiting = deque(prompt for prompt in prompts if again or not ledger.asked[prompt.key])
        self.open: list[Pair] = []
        """Pairs to vote on; the first one is shown."""
        self.settled: list[Pair] = []
        """Pairs of this session that have their row, in its order."""
        self.set_aside = 0
        """How many were settled without anyone's vote; `aside` says why the last one was."""
        self.aside = ""
        self._closed = False
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._writing = self._pool.submit(self._write)

    @property
    def asked(self) -> int:
        """Prompts of the file that are settled."""
        return self.total - len(self.waiting) - sum(not pair.prompt.is_typed for pair in self.open)

    @property
    def undoable(self) -> bool:
        """Whether there is a vote of this session."""
        return any(not pair.fault for pair in self.settled)

    def current(self) -> Pair | None:
        """The pair to vote on next, whether it is written or not; None where all prompts have been asked.

        Raises what the thread that writes died of, if it did.
        """
        if self._writing.done():
            self._writing.result()
        self._fill()
        while self.open and self.open[0].done and self.open[0].fault:
            self._set_aside(self.open[0])
            self._fill()
        return self.open[0] if self.open else None

    def vote(self, vote: Vote) -> Pair:
        """Keep the vote; returns the pair, which may now be told who wrote it.

        Raises ConflictError for a pair that has a vote, is not written, or is not known.
        """
        if any(pair.id == vote.pair for pair in self.settled):
            raise ConflictError("there is a vote on this pair already", where="pair", hint="undo it first")
        pair = next((pair for pair in self.open if pair.id == vote.pair), None)
        if pair is None:
            raise ConflictError(f"there is no pair '{vote.pair}'", where="pair", hint="load the page again")
        if not pair.done or pair.fault:
            raise ConflictError("its answers are still being written", where="pair")
        row = row_of(vote, pair.prompt.messages, pair.a.answer(), pair.b.answer(), self.mode)
        self._settle(pair, row)
        return pair

    def undo(self) -> Pair:
        """Take the last vote back and show its pair again; raises ConflictError if there is none."""
        if not self.undoable:
            raise ConflictError("there is no vote of this session to undo")
        while True:
            self.ledger.undo()
            with self._changed:
                pair = self.settled.pop()
                self.open.insert(0, pair)
            if (
                not pair.fault
            ):  # what was set aside since is open again too, and set aside when its turn comes
                return pair

    def ask(self, text: str) -> Pair:
        """Ask the typed `text` next; raises DataError or PromptError where models cannot answer it."""
        prompt = typed(text)
        self.check(prompt.messages)
        pair = self._pair(prompt)
        with self._changed:
            self.open.insert(0, pair)
            self._changed.notify()
        return pair

    def check(self, messages: list[Message]) -> None:
        """Raise PromptError for a prompt that leaves no room for an answer in a model's window."""
        check_room(self.models, messages)

    def close(self) -> None:
        """End the thread; answers that it was writing are lost."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._pool.shutdown()

    def _fill(self) -> None:
        with self._changed:
            while self.waiting and len(self.open) <= AHEAD:
                self.open.append(self._pair(self.waiting.popleft()))
            self._changed.notify()

    def _pair(self, prompt: Prompt) -> Pair:
        """Two answers to be written; sides and seeds are drawn from the prompt and how often it was asked."""
        draw = random.Random(f"{self.seed}/{self.ledger.asked[prompt.key]}/{prompt.key}")
        names = list(self.models) * (2 if len(self.models) == 1 else 1)
        draw.shuffle(names)
        a, b = (self._side(name, draw.getrandbits(32), prompt) for name in names)
        return Pair(id=secrets.token_hex(8), prompt=prompt, a=a, b=b)

    def _side(self, name: str, seed: int, prompt: Prompt) -> Side:
        sampling = dataclasses.replace(self.sampling, seed=seed)
        return Side(name, seed, lambda: self.models[name].stream(prompt.messages, sampling))

    def _set_aside(self, pair: Pair) -> None:
        a, b = pair.a.answer(), pair.b.answer()
        self._settle(pair, undecided_row(pair.fault, pair.prompt.messages, a, b, self.mode))
        self.set_aside, self.aside = self.set_aside + 1, FAULTS[pair.fault]

    def _settle(self, pair: Pair, row: dict[str, object]) -> None:
        self.ledger.add(row)
        with self._changed:
            self.open.remove(pair)
            self.settled.append(pair)

    def _write(self) -> None:
        while pair := self._unwritten():
            pair.advance()

    def _unwritten(self) -> Pair | None:
        """The first open pair that is not done, waited for; None when the page is closed."""
        with self._changed:
            while not self._closed:
                if pair := next((pair for pair in self.open if not pair.done), None):
                    return pair
                self._changed.wait()
        return None


def check_room(models: Mapping[str, ChatLM], messages: list[Message]) -> None:
    """Raise PromptError where `messages` fill the window of one of the models."""
    for name, lm in models.items():
        taken = lm.count(messages)
        if taken >= lm.context:
            what = (
                f"the prompt has {taken} tokens and the window of {name} {lm.context}: no room for an answer"
            )
            raise PromptError(what, where="prompt", hint="shorten the prompt")
