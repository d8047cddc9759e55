"""Pages for people as files of a browser's own languages, sent as they are: no build step, nothing from elsewhere.

Each file is a route of its own, so that every other path stays what it is to programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

PAGES = Path(__file__).parent / "pages"
STUDIO = Path(__file__).parent / "studio"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""A page runs its own scripts only, in no other page's frame, and is never an older one from a cache."""


def file_routes(files: Mapping[str, Path]) -> list[Route]:
    """A route for each path of `files`."""
    return [Route(path, _sender(file)) for path, file in files.items()]


def studio_files() -> dict[str, Path]:
    """The chat page at `/`, and what it is made of."""
    parts = [
        PAGES / "house.css",
        *sorted(file for file in STUDIO.iterdir() if file.suffix in (".css", ".js")),
    ]
    return {"/": STUDIO / "index.html", **{f"/studio/{file.name}": file for file in parts}}


def _sender(file: Path) -> Any:
    async def send(_: Request) -> Response:
        return FileResponse(file, headers=HEADERS)

    return send
