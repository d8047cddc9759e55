"""What the tests of `luban prefer` share: models that say what they are told to, and the page on a real socket."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from luban.lm import Conversation, Sampling
from luban.serving.pairing import Pairing, check_room
from luban.serving.prefer import bound
from luban.serving.prefer_app import make_app
from luban.serving.prefer_prompts import Prompt, read_prompts
from luban.serving.votes import Ledger, Mode
from tests.inference.echo import EchoLM

QUESTIONS = ("What is a plane for?", "Who was Lu Ban?", "How long is a chi?")


class ScriptedLM(EchoLM):
    """Answers with its own name and the seed, or with `says`; slowly, if `pause_s` says so."""

    def __init__(self, name: str, *, says: str = "", pause_s: float = 0.0, ends: str = "stop") -> None:
        super().__init__(name)
        self.says, self.pause_s, self.ends = says, pause_s, ends

    def stream(self, conversation: Conversation, sampling: Sampling) -> Generator[str, None, str]:
        self.asked.append(list(conversation))
        for word in (self.says or f"I am {self.name} with {sampling.seed} now").split(" "):
            time.sleep(self.pause_s)
            yield f"{word} "
        return self.ends


class BrokenLM(ScriptedLM):
    """Fails in a way that nobody foresaw."""

    def stream(self, conversation: Conversation, sampling: Sampling) -> Generator[str, None, str]:
        raise ZeroDivisionError(f"{conversation} {sampling}")


def write_prompts(path: Path, questions: Sequence[str] = QUESTIONS) -> Path:
    path.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in questions), encoding="utf-8")
    return path


def pairing_of(
    folder: Path,
    *models: ScriptedLM,
    mode: Mode = "helpful",
    questions: Sequence[str] = QUESTIONS,
    again: bool = False,
    seed: int = 0,
) -> Pairing:
    """What a page over `folder` asks about: two scripted models where none are given."""
    named = {lm.name: lm for lm in models or (ScriptedLM("oak"), ScriptedLM("elm"))}
    prompts: list[Prompt] = []
    if questions:
        path = write_prompts(folder / "prompts.jsonl", questions)
        prompts = read_prompts(path, lambda messages: check_room(named, messages))
    sampling = Sampling(max_tokens=32, temperature=1.0)
    ledger = Ledger(folder)
    return Pairing(named, prompts, ledger, mode=mode, sampling=sampling, seed=seed, again=again)


class Page:
    """The page's calls, as the browser makes them."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON (or text) of the answer; a `body` of bytes is sent as it is."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data=data, method=method)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            asked.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                status, content, kind = answer.status, answer.read(), answer.headers["content-type"]
        except urllib.error.HTTPError as error:
            status, content, kind = error.code, error.read(), error.headers["content-type"]
        return status, json.loads(content) if "json" in kind else content.decode()

    def state(self) -> dict[str, Any]:
        return self.call("GET", "/api/state")[1]

    def pair(self) -> Any:
        """The pair on the page, once it is written; None where there is none."""
        for _ in range(400):
            state = self.state()
            if state["pair"] is None or state["pair"]["done"]:
                return state["pair"]
            time.sleep(0.02)
        raise AssertionError("the answers are never done")

    def vote(self, verdict: str, strength: int | None = None, **body: Any) -> tuple[int, Any]:
        told = {"pair": self.pair()["id"], "verdict": verdict}
        return self.call("POST", "/api/votes", told | ({"strength": strength} if strength else {}) | body)


@contextlib.contextmanager
def served(pairing: Pairing) -> Iterator[Page]:
    """The page at a free port of this machine."""
    with contextlib.closing(bound("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(make_app(pairing), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Page(f"http://127.0.0.1:{listening.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join()


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none if it is not there."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
