"""Generated Python against unit tests: right, wrong, hanging, greedy and prying code."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from luban.alignment.verify import VERIFIERS
from luban.alignment.verify.sandbox import Limits, passed
from luban.errors import DataError

ADD = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]
FAST = Limits(seconds=1.0)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("def add(a, b):\n    return a + b", 1),
        ("Sure!\n```python\ndef add(a, b):\n    return a + b\n```\nDone.", 1),
        ("def add(a, b):\n    return 3", 0.5),
        ("def add(a, b) return", 0),
        ("import sys\ndef add(a, b):\n    return a + b\nsys.exit(0)", 0),
        ("print('x' * 10**6)\ndef add(a, b):\n    return a + b", 1),
        ("", 0),
    ],
)
def test_the_score_is_the_share_of_tests_that_pass(answer: str, score: float) -> None:
    assert VERIFIERS["python"].score({"tests": ADD}, answer) == score


def test_a_hanging_test_costs_its_time_and_no_more() -> None:
    begun = time.monotonic()
    assert passed("", ["pass", "while True: pass", "pass"], FAST) == 1
    assert time.monotonic() - begun < 3


def test_memory_has_an_end() -> None:
    assert passed("", ["x = bytearray(10**9)", "y = bytearray(10**6)"], FAST) == 1


PRYING = {
    "a file is read": "open('/etc/passwd').read()",
    "a file is written": "open('here', 'w')",
    "a file is written by the system's own call": "import os; os.open('here', os.O_CREAT | os.O_WRONLY)",
    "a folder is listed": "import os; os.listdir('/')",
    "a socket is opened": "import socket; socket.socket().connect(('127.0.0.1', 9))",
    "a program is started": "import subprocess; subprocess.run(['true'])",
    "a shell is started": "import os; assert os.system('true') == 0",
    "a process is forked": "import os; os.fork() or os._exit(0)",
    "C is called": "import ctypes",
    "the environment is read": "import os; assert os.environ['HOME']",
}


@pytest.mark.parametrize("test", PRYING.values(), ids=PRYING)
def test_the_outside_is_refused(test: str) -> None:
    assert passed("", [test], FAST) == 0


def test_the_standard_library_is_there() -> None:
    code = "from collections import namedtuple\nfrom dataclasses import dataclass\nimport heapq, json, math, re\n"
    assert (
        passed(code + "@dataclass\nclass A:\n    x: int = 1\n", ["assert A().x == math.gcd(2, 3)"], FAST) == 1
    )


def test_an_answer_cannot_say_that_it_passed(tmp_path: Path) -> None:
    told = "import sys, __main__\nfor name in dir(__main__):\n    print(name, getattr(__main__, name))\nsys.exit(0)"
    assert passed(told, ["assert False"], FAST) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tests", "told"), [(None, "no 'tests'"), ([], "no 'tests'"), (["assert ("], "is not Python")]
)
def test_a_row_without_tests_is_refused(tests: list[str] | None, told: str) -> None:
    with pytest.raises(DataError, match=told):
        VERIFIERS["python"].check({"tests": tests})
