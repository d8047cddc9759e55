"""`/v1/embeddings` and `/v1/score`, and the client of our own: all say what the model says here."""

from __future__ import annotations

import array
import base64
import math
from typing import Any

import pytest
import torch

from luban.inference.endpoint import Endpoint
from luban.inference.generate import generate_tokens
from luban.lm import Sampling
from tests import tiny
from tests.serving.running import Running

TEXTS = ["The quick brown", "鲁班", "numbers: 1 23"]


def states(server: Running, text: str) -> torch.Tensor:
    ids = torch.tensor([tiny.tokenizer().encode(text)])
    with torch.no_grad():
        return server.served.lm.model.hidden(ids)[0]


def test_an_embedding_is_the_mean_of_the_last_states_at_length_one(server: Running) -> None:
    answer = server.client().embeddings.create(model="tiny", input=TEXTS)
    for row, text in zip(answer.data, TEXTS, strict=True):
        mean = states(server, text).mean(0)
        assert row.embedding == pytest.approx((mean / mean.norm()).tolist(), abs=1e-5)
    assert [row.index for row in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == sum(map(len, tiny.tokenizer().encode_batch(TEXTS)))


def test_an_embedding_can_be_the_last_state_as_it_is(server: Running) -> None:
    body = {"input": TEXTS[0], "pooling": "last", "normalize": False}
    (row,) = server.post("/v1/embeddings", body).json()["data"]
    assert row["embedding"] == pytest.approx(states(server, TEXTS[0])[-1].tolist(), abs=1e-4)


@pytest.mark.parametrize("form", ["text", "texts", "ids", "several ids"])
def test_ids_and_texts_have_the_same_embedding(server: Running, form: str) -> None:
    ids = tiny.tokenizer().encode(TEXTS[0])
    asked: Any = {"text": TEXTS[0], "texts": TEXTS[:1], "ids": ids, "several ids": [ids]}[form]
    row = server.post("/v1/embeddings", {"input": asked}).json()["data"][0]
    expected = server.post("/v1/embeddings", {"input": TEXTS[0]}).json()["data"][0]
    assert row == expected


def test_base64_is_the_float32_of_the_same_numbers(server: Running) -> None:
    plain, packed = (
        server.post("/v1/embeddings", {"input": TEXTS[0], "encoding_format": form}).json()["data"][0][
            "embedding"
        ]
        for form in ("float", "base64")
    )
    numbers = array.array("f", base64.b64decode(packed))
    assert list(numbers) == pytest.approx(plain, abs=1e-6)
    assert math.fsum(value**2 for value in numbers) == pytest.approx(1, abs=1e-5)


def test_scores_are_the_models_own(server: Running) -> None:
    pairs = [
        ("The quick", " brown fox"),
        ("", "鲁班是中国古代的木匠"),
        ("a", ""),
        ("", "long text " * 40),
    ] * 6
    told = server.post("/v1/score", {"pairs": pairs}).json()
    expected = server.served.lm.score(pairs)
    assert [row["index"] for row in told["data"]] == list(range(24))
    for row, score in zip(told["data"], expected, strict=True):
        assert row["logprobs"] == pytest.approx(score.logps, abs=1e-5)
        assert row["total"] == pytest.approx(score.total, abs=1e-4)
        assert row["greedy"] == score.greedy


def test_scores_and_answers_at_once_are_each_what_they_are_alone(server: Running) -> None:
    from concurrent.futures import ThreadPoolExecutor

    pairs = [["The", " quick"]] * 40
    body = {"prompt": "The quick", "max_tokens": 20, "temperature": 0}
    alone = server.post("/v1/completions", body).json()["choices"]
    with ThreadPoolExecutor(4) as pool:
        scored = pool.submit(server.post, "/v1/score", {"pairs": pairs})
        answers = list(pool.map(lambda _: server.post("/v1/completions", body).json()["choices"], range(3)))
    assert answers == [alone] * 3
    assert len({row["total"] for row in scored.result().json()["data"]}) == 1


def test_our_own_client_behind_our_own_server_writes_what_the_model_writes(server: Running) -> None:
    remote = Endpoint(f"{server.url}/v1", tiny.tokenizer(), context=64, top=384)
    assert remote.name == "tiny"
    prompts = tiny.tokenizer().encode_batch(TEXTS)
    sampling = [Sampling(temperature=0, max_tokens=8, logprobs=True)] * 3
    stops = server.served.lm.stop_ids
    made = generate_tokens(remote, prompts, sampling, tokenizer=tiny.tokenizer(), stop_ids=stops)
    expected = server.served.lm.generate(TEXTS, sampling[0])
    assert [answer.tokens for answer in made] == [answer.tokens for answer in expected]
    for answer, known in zip(made, expected, strict=True):
        assert answer.logps == pytest.approx(known.logps, abs=1e-4)
    assert remote.told == pytest.approx([1.0] * len(remote.told), abs=1e-4)
