"""Mixed requests against one server: each either gets the answer it gets alone, or is refused as it should be.

Some callers hang up, some ask for too much, some send nonsense; pages are so few that answers wait, are set aside and
swapped. Everything is drawn from a seed. `benchmarks/serve_soak.py` does the same with ten times as many.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx

TEXTS = ["The quick", "鲁班 🙂", "numbers: 1 2", "<|im_end|>\x00é"]
SEEDS = 2
"""So few that many requests are alike, since the answer of each kind is also computed alone."""
PATHS = {
    "text": "/v1/completions",
    "chat": "/v1/chat/completions",
    "vector": "/v1/embeddings",
    "score": "/v1/score",
}


@dataclass(frozen=True)
class Ask:
    """One request: what is sent, what status must come back, and after how many pieces the caller leaves."""

    kind: str
    body: dict[str, Any]
    status: int = 200
    content: bytes | None = None
    leaves_after: int | None = None

    @property
    def path(self) -> str:
        return PATHS[self.kind]

    @property
    def key(self) -> str:
        """The same for requests that must have the same answer, streamed or not."""
        return json.dumps(
            [self.kind, {name: v for name, v in self.body.items() if name != "stream"}], sort_keys=True
        )


@dataclass
class Report:
    """What came of all requests."""

    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def make(generator: random.Random) -> Ask:
    """A request drawn at random."""
    kind = generator.choices(list(PATHS), [6, 6, 1, 1])[0]
    text = generator.choice(TEXTS)
    if kind == "vector":
        return Ask(kind, {"input": [text, "a"], "encoding_format": generator.choice(["float", "base64"])})
    if kind == "score":
        return Ask(kind, {"pairs": [[text, " tools"], ["", text]]})
    return _spoiled(generator, Ask(kind, _writing(generator, kind, text)))


def _writing(generator: random.Random, kind: str, text: str) -> dict[str, Any]:
    body: dict[str, Any] = {"seed": generator.randrange(SEEDS), "max_tokens": generator.choice([1, 5, 15])}
    body |= {"prompt": text} if kind == "text" else {"messages": [{"role": "user", "content": text}]}
    more: list[dict[str, Any]] = [
        {}, {"n": 3}, {"temperature": 0}, {"top_p": 0.7, "top_k": 40}, {"repetition_penalty": 1.5},
        {"stop": ["e", "7"]},
        {"logit_bias": {"50": 3}}, {"guided_regex": "[a-z]{3}[0-9]"}, {"guided_choice": ["yes", "no"]},
        {"ignore_eos": True},
        {"logprobs": 2} if kind == "text" else {"logprobs": True, "top_logprobs": 2},
        {"prompt": [text, "鲁"], "echo": True} if kind == "text" else {"response_format": {"type": "text"}},
    ]  # fmt: skip
    body |= generator.choice(more)
    if generator.random() < 0.5:
        body["stream"] = True
    return body


def _spoiled(generator: random.Random, ask: Ask) -> Ask:
    """Some requests as nobody should send them, and some whose callers leave."""
    fate = generator.random()
    if fate < 0.08:
        long = {"stream": True, "ignore_eos": True, "max_tokens": 25, "n": 2}
        return Ask(ask.kind, ask.body | long, leaves_after=generator.randint(0, 3))
    if fate < 0.11:
        long = "long " * 200
        key = {"prompt": long} if ask.kind == "text" else {"messages": [{"role": "user", "content": long}]}
        return Ask(ask.kind, ask.body | key, status=400)
    if fate < 0.14:
        whole = json.dumps(ask.body).encode()
        return Ask(ask.kind, ask.body, status=400, content=whole[: generator.randrange(len(whole))])
    if fate < 0.17:
        wrong = generator.choice(
            [{"n": 0}, {"nonsense": 1}, {"seed": "x"}, {"temperature": -1}, {"suffix": "s"}]
        )
        return Ask(ask.kind, ask.body | wrong, status=400)
    return ask


async def ask_all(
    url: str, asks: list[Ask], *, at_once: int, tell: Callable[[int], None] | None = None
) -> Report:
    """Send all requests, so many at a time, and compare each answer with the one that it had first, alone."""
    report, known = Report(), dict[str, Any]()
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False, limits=limits) as client:
        for ask in {ask.key: ask for ask in asks if ask.status == 200}.values():
            known[ask.key] = (await _answer(client, ask, alone=True))[1]
        seats = asyncio.Semaphore(at_once)

        async def take(number: int, ask: Ask) -> None:
            async with seats:
                await _compare(client, ask, known, report)
            if tell:
                tell(number)

        await asyncio.gather(*(take(number, ask) for number, ask in enumerate(asks)))
    return report


async def _compare(client: httpx.AsyncClient, ask: Ask, known: dict[str, Any], report: Report) -> None:
    status, told = await _answer(client, ask)
    left = ask.leaves_after is not None
    report.kinds["left" if left else f"{status} {ask.kind}"] += 1
    if left:
        return
    if status != ask.status:
        report.wrong.append(f"{status} instead of {ask.status} to {ask}: {told}")
    elif status == 200 and told != known[ask.key]:
        report.wrong.append(f"another answer than alone to {ask}:\n{told}\n{known[ask.key]}")


async def _answer(client: httpx.AsyncClient, ask: Ask, *, alone: bool = False) -> tuple[int, Any]:
    """The status, and the answer without what differs between two of the same request."""
    sent: dict[str, Any] = {"json": ask.body} if ask.content is None else {"content": ask.content}
    async with client.stream("POST", ask.path, **sent) as answer:
        if ask.leaves_after is not None and not alone:
            lines = answer.aiter_lines()
            for _ in range(ask.leaves_after):
                await anext(lines, None)
            return 0, None
        content = await answer.aread()
    if answer.status_code == 200 and ask.body.get("stream"):
        return 200, _joined(content.decode())
    body = json.loads(content)
    return answer.status_code, _essence(body) if answer.status_code == 200 else body


def _joined(events: str) -> Any:
    """What a stream said, as if it had been said at once."""
    *lines, done = events.rstrip("\n").split("\n\n")
    assert done == "data: [DONE]", f"a stream that does not end: {done}"
    texts: Counter[int] = Counter()
    said: dict[int, list[Any]] = {}
    for line in lines:
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            row = said.setdefault(choice["index"], ["", None])
            row[0] += choice.get("text") or choice.get("delta", {}).get("content") or ""
            row[1] = choice["finish_reason"] or row[1]
            texts[choice["index"]] += 1
    return [said[index] for index in sorted(said)]


def _essence(body: dict[str, Any]) -> Any:
    """Texts and reasons; of vectors and scores all, rounded, since a fuller step may round the last bit otherwise."""
    if "choices" in body:
        return [
            [choice["text"] if "text" in choice else choice["message"]["content"], choice["finish_reason"]]
            for choice in body["choices"]
        ]
    if "total" in body["data"][0]:
        return [round(row["total"], 3) for row in body["data"]]
    vectors = [row["embedding"] for row in body["data"]]
    return [_rounded(vector) for vector in vectors]


def _rounded(vector: Any) -> Any:
    if isinstance(vector, str):
        return len(vector)
    return [round(value, 3) + 0.0 for value in vector]
