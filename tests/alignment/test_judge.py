"""Whoever judges: verifiers, functions, servers, reward models; and what they may not say."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from luban.alignment.judge import judged, open_judge
from luban.alignment.prompts import Prompt
from luban.alignment.rollout import Answer
from luban.errors import ConfigError, DataError, MachineError, ModelError
from luban.models import hf
from luban.models.classifier import Classifier
from luban.training.checkpoint import write_model_folder
from tests import tiny
from tests.alignment.models import write_function, write_policy

CPU = torch.device("cpu")


def answer(text: str, **row: object) -> Answer:
    tokens = tiny.tokenizer().encode(text)
    prompt = Prompt(ids=[1, 2, 3], row={"prompt": "how much?", **row}, where="rows.jsonl:7")
    return Answer(prompt=prompt, tokens=tokens, logps=[0.0] * len(tokens), finished=True, text=text)


def test_a_verifier_judges_by_the_row_s_column() -> None:
    judge = open_judge("verify:arithmetic", tiny.tokenizer(), device=CPU)
    assert judged(judge, [answer("it is 7", answer="3+4"), answer("8", answer="7")]) == [1, 0]


def test_a_function_gets_rows_and_answers(tmp_path: Path) -> None:
    file = write_function(tmp_path / "mine.py")
    judge = open_judge(f"{file}:shortness", tiny.tokenizer(), device=CPU)
    assert judged(judge, [answer("abcde"), answer("")]) == [-0.5, 0]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("wrong_count", "1 rewards came back for 2 answers"),
        ("not_a_number", r"rows\.jsonl:7: the reward of the answer 'a' is nan"),
    ],
)
def test_a_wrong_count_and_nan_are_refused(name: str, told: str, tmp_path: Path) -> None:
    judge = open_judge(f"{write_function(tmp_path / 'mine.py')}:{name}", tiny.tokenizer(), device=CPU)
    with pytest.raises(DataError, match=told):
        judged(judge, [answer("a"), answer("b")])


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("verify:arithmetics", "did you mean 'arithmetic'"),
        ("{folder}/mine.py:shortnes", "there is no function 'shortnes'; did you mean 'shortness'"),
        ("{folder}/other.py:f", "no such file"),
        ("{folder}/nothing", "nothing that judges answers"),
    ],
)
def test_a_judge_that_is_not_there_is_named(spec: str, told: str, tmp_path: Path) -> None:
    write_function(tmp_path / "mine.py")
    with pytest.raises(ConfigError, match=told):
        open_judge(spec.format(folder=tmp_path), tiny.tokenizer(), device=CPU)


class Server(http.server.BaseHTTPRequestHandler):
    """Answers /count with each answer's length, /broken with no JSON."""

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rewards = {
            "rewards": [
                len(text) + row["bonus"] for row, text in zip(told["rows"], told["answers"], strict=True)
            ]
        }
        replies = {"/count": json.dumps(rewards), "/list": "[1]", "/broken": "<html>"}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(replies[self.path].encode("utf-8"))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_server_judges_over_a_real_socket(server: str) -> None:
    judge = open_judge(f"{server}/count", tiny.tokenizer(), device=CPU)
    assert judged(judge, [answer("abc", bonus=0.5), answer("", bonus=1)]) == [3.5, 1]


@pytest.mark.parametrize(("path", "told"), [("list", "no list 'rewards'"), ("broken", "not JSON")])
def test_a_server_s_nonsense_is_told(server: str, path: str, told: str) -> None:
    judge = open_judge(f"{server}/{path}", tiny.tokenizer(), device=CPU)
    with pytest.raises(DataError, match=told):
        judged(judge, [answer("abc", bonus=1)])


def test_a_server_that_is_not_there_is_told() -> None:
    judge = open_judge("http://127.0.0.1:9/none", tiny.tokenizer(), device=CPU)
    with pytest.raises(MachineError, match="does not answer"):
        judged(judge, [answer("abc")])


def test_a_reward_model_scores_the_last_token_of_the_policy_s_own_ids(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Classifier(tiny.llama(), 1)
    write_model_folder(tmp_path, model, tiny.tokenizer())
    judge = open_judge(str(tmp_path), tiny.tokenizer(), device=CPU)
    asked = [answer("a much longer answer"), answer("b")]
    alone = [model(torch.tensor([[*one.prompt.ids, *one.tokens]]))[0, 0].item() for one in asked]
    assert judged(judge, asked) == pytest.approx(alone, abs=1e-5)


def test_a_model_without_one_score_is_no_judge(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no head for any"):
        open_judge(str(write_policy(tmp_path)), tiny.tokenizer(), device=CPU)


def test_a_reward_model_of_other_words_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write_model_folder(tmp_path, Classifier(tiny.llama(), 1), tiny.sentencepiece_like())
    assert hf.load(tmp_path).config.labels == ("LABEL_0",)
    with pytest.raises(ConfigError, match="tokenizer is not the policy's"):
        open_judge(str(tmp_path), tiny.tokenizer(), device=CPU)
