"""A base behind an OpenAI-compatible endpoint: a real server on a real socket, a tiny model behind it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from luban.errors import MachineError, ModelError, PromptError
from luban.inference.endpoint import Endpoint, token_ids
from luban.inference.local import LocalLM
from luban.inference.proxy import proxied
from luban.lm import Sampling
from tests import tiny
from tests.inference.test_proxy import PROMPTS, lm, model

GREEDY = Sampling(temperature=0, max_tokens=6)


@dataclass
class Server:
    """What stands behind the socket, and what it was asked."""

    model: Any
    url: str = ""
    most: int = 1000
    spelling: str = "text"
    broken: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def complete(self, body: dict[str, Any]) -> Any:
        self.asked.append(body)
        if self.broken:
            return json.loads(self.broken)
        return {
            "choices": [self._choice(i, row, body["logprobs"]) for i, row in enumerate(body["prompt"])][::-1]
        }

    def _choice(self, index: int, row: list[int], top: int) -> dict[str, Any]:
        with torch.no_grad():
            logps = self.model(torch.tensor([row]))[0, -1].log_softmax(-1)
        best = logps.topk(min(top, self.most))
        told = {
            self._spelled(token): logp
            for token, logp in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        }
        return {"index": index, "text": "", "logprobs": {"top_logprobs": [told]}}

    def _spelled(self, token: int) -> str:
        if self.spelling == "number":
            return f"token_id:{token}"
        return tiny.tokenizer().decode([token], skip_special=False)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server(model(1))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"data": [{"id": "tiny"}]})

        def do_POST(self) -> None:
            state.keys.append(self.headers["Authorization"])
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(state.complete(body))

        def answer(self, value: Any) -> None:
            content = json.dumps(value).encode()
            self.send_response(200 if self.path in ("/v1/models", "/v1/completions") else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name for it
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{web.server_port}/v1"
    thread = threading.Thread(target=web.serve_forever, args=(0.01,))
    thread.start()
    yield state
    web.shutdown()
    thread.join()
    web.server_close()


def endpoint(server: Server, *, top: int = 384, api_key: str = "") -> Endpoint:
    return Endpoint(server.url, tiny.tokenizer(), context=64, top=top, api_key=api_key)


def small() -> LocalLM:
    return lm(model(2, tiny.gpt2))


def test_told_every_token_the_answers_are_those_of_three_models_here(server: Server) -> None:
    server.spelling = "number"
    expert, anti = small(), lm(model(3, tiny.gpt2))
    expected = proxied(lm(model(1)), expert, anti).generate(PROMPTS, GREEDY)
    remote = endpoint(server)
    assert proxied(remote, expert, anti).generate(PROMPTS, GREEDY) == expected
    assert remote.told == pytest.approx([1.0] * len(remote.told), abs=1e-4)
    assert [len(row) for row in server.asked[0]["prompt"]] == [
        len(tiny.tokenizer().encode(prompt)) for prompt in sorted(PROMPTS, key=len, reverse=True)
    ]
    assert server.asked[0]["model"] == "tiny"


def test_of_a_few_candidates_the_probabilities_are_made_to_sum_to_one(server: Server) -> None:
    server.spelling = "number"
    remote = endpoint(server, top=3)
    (slot,) = remote.make_cache(batch=1, capacity=9)
    row = torch.tensor([[5, 6, 7]])
    logits = remote.hidden(row, torch.arange(3)[None], [slot])[0, -1]
    with torch.no_grad():
        whole = server.model(row)[0, -1].softmax(-1)
    best = whole.topk(3)
    assert torch.equal(logits.isfinite().nonzero()[:, 0], best.indices.sort().values)
    torch.testing.assert_close(logits.softmax(-1)[best.indices], best.values / best.values.sum())
    assert remote.told == pytest.approx([float(best.values.sum())], abs=1e-5)


def test_the_expert_chooses_among_the_candidates_only(server: Server) -> None:
    server.spelling = "number"
    made = proxied(endpoint(server, top=1), small(), lm(model(3, tiny.gpt2)), alpha=9.0).generate(
        PROMPTS, GREEDY
    )
    assert made == proxied(lm(model(1)), small(), small()).generate(PROMPTS, GREEDY)


def test_tokens_spelled_as_text_are_found_where_no_other_token_is_spelled_so(server: Server) -> None:
    ids = token_ids(tiny.tokenizer())
    assert [ids[text] for text in (" the", "a")] == [
        tiny.tokenizer().encode(text)[0] for text in (" the", "a")
    ]
    assert "�" not in ids
    pieces = tiny.sentencepiece_like().vocabulary()
    assert {piece: token_ids(tiny.sentencepiece_like())[piece] for piece in pieces} == pieces
    answers = proxied(endpoint(server), small(), small()).generate(["The quick"], GREEDY)
    assert len(answers[0].tokens) > 0


def test_the_command_takes_a_url_and_tells_how_much_was_known(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    from luban.inference.complete import Config, run

    config = Config(
        model=server.url, expert="e", anti_expert="a", prompt=("The",), max_tokens=4, top_logprobs=5, seed=1
    )
    results = run(config, lambda _folder: small())
    assert results["model"] == "tiny as model"
    assert 0 < results["told"] < 1
    assert {body["logprobs"] for body in server.asked} == {5}
    assert f"candidates had {results['told']:.1%}" in capsys.readouterr().err


def test_a_key_is_sent_where_there_is_one(server: Server) -> None:
    for key in ("", "secret"):
        proxied(endpoint(server, api_key=key), small(), small()).generate(
            ["a"], Sampling(max_tokens=1, seed=0)
        )
    assert server.keys == [None, "Bearer secret"]


def test_text_cannot_be_scored_behind_an_endpoint(server: Server) -> None:
    with pytest.raises(PromptError, match="not how likely a text is"):
        proxied(endpoint(server), small(), small()).score([("The", " quick")])


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ('{"choices": [{"index": 0, "logprobs": null}]}', "no top_logprobs"),
        ('{"choices": []}', "0 answers to 1 prompts"),
        ('{"choices": [{"index": 0, "logprobs": {"top_logprobs": [{"unheard-of": -1}]}}]}', "unheard-of"),
        ('{"choices": [{"index": 0, "logprobs": {"top_logprobs": [{"token_id:999": -1}]}}]}', "token_id:999"),
    ],
)
def test_an_answer_without_what_is_needed_says_so(server: Server, answer: str, problem: str) -> None:
    server.broken = answer
    with pytest.raises(ModelError, match=problem):
        proxied(endpoint(server), small(), small()).generate(["a"], GREEDY)


def test_an_endpoint_that_is_not_there_is_named(server: Server) -> None:
    with pytest.raises(MachineError, match=r"answered 404(.|\n)*"):
        Endpoint(f"{server.url}/deeper", tiny.tokenizer(), context=64)
    with pytest.raises(MachineError, match=r"http://127\.0\.0\.1:9/models: no usable answer"):
        Endpoint("http://127.0.0.1:9", tiny.tokenizer(), context=64)
