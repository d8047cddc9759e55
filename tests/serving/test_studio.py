"""The files of the chat page as a server sends them, and that they leave the API's paths as they are."""

from __future__ import annotations

import re

import pytest

from luban.serving.files import PAGES, STUDIO, studio_files
from tests.serving.running import Running, running

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


@pytest.mark.parametrize("path", studio_files())
def test_each_file_is_sent_with_its_kind_and_runs_no_scripts_but_ours(path: str, server: Running) -> None:
    answer = server.get(path)
    file = studio_files()[path]
    assert (answer.status_code, answer.content) == (200, file.read_bytes())
    assert answer.headers["content-type"].startswith(KINDS[file.suffix])
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")


def test_whatever_the_page_names_is_sent() -> None:
    page = (STUDIO / "index.html").read_text("utf-8")
    named = re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page)
    for script in STUDIO.glob("*.js"):
        named += [f"studio/{name}" for name in re.findall(r'from "\./([^"]+)"', script.read_text("utf-8"))]
    assert {f"/{name}" for name in named} | {"/"} == studio_files().keys()


def test_nothing_is_asked_for_elsewhere_and_no_text_becomes_markup() -> None:
    for file in (*STUDIO.iterdir(), PAGES / "house.css"):
        text = file.read_text("utf-8")
        assert not re.search(r"https?://", text), file
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text), file


def test_the_page_needs_no_key_and_other_paths_are_what_they_were() -> None:
    with running(keys=("secret",)) as server:
        assert server.get("/").status_code == 200
        assert server.get("/v1/models").status_code == 401
        headers = {"Authorization": "Bearer secret"}
        assert server.get("/v1/completions", headers=headers).status_code == 405
        assert server.post("/", {}).status_code == 405
        for path in ("/nothing", "/studio/nothing.js", "/studio/../app.py", "/studio/", "/v1/nothing"):
            answer = server.get(path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
