"""The page of `luban prefer` over HTTP: files of a browser's own languages, and four calls.

    GET    /api/state        progress, and the pair to vote on as far as it is written; never which model is where
    POST   /api/votes        {"pair", "verdict", "strength"}: keeps the vote, and now tells who wrote what
    DELETE /api/votes/last   undo
    POST   /api/prompts      {"prompt"}: asks this next

A mistake is answered with 400, what contradicts a settled pair with 409, both as {"error": {"message"}}. Votes are
taken as JSON only and under this server's own name only, so that no page of another site can send one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from luban.errors import DataError, LubanError
from luban.serving.files import HEADERS, PAGES, file_routes
from luban.serving.pairing import Pair, Pairing, Side
from luban.serving.votes import PREFERENCES, UNDECIDED, ConflictError, read_vote

LOCAL = ("127.0.0.1", "localhost")


def make_app(pairing: Pairing, *, hosts: Sequence[str] = LOCAL) -> Starlette:
    """The application; it closes `pairing` when it ends. `hosts` are the names it may be called by, `*` any."""

    @contextlib.asynccontextmanager
    async def closing(_: Starlette) -> AsyncIterator[None]:
        yield
        pairing.close()

    app = Starlette(
        routes=[
            *file_routes(FILES),
            Route("/api/state", _state),
            Route("/api/votes", _vote, methods=["POST"]),
            Route("/api/votes/last", _undo, methods=["DELETE"]),
            Route("/api/prompts", _ask, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers={LubanError: _refuse, OSError: _fail, HTTPException: _not_served},
        lifespan=closing,
    )
    app.state.pairing = pairing
    return app


FILES = {
    "/": PAGES / "prefer.html",
    "/house.css": PAGES / "house.css",
    "/prefer.css": PAGES / "prefer.css",
    "/prefer.js": PAGES / "prefer.js",
}


async def _state(request: Request) -> Response:
    return _told(request.app.state.pairing)


async def _vote(request: Request) -> Response:
    pairing: Pairing = request.app.state.pairing
    vote = read_vote(await _json(request))
    pair = pairing.vote(vote)
    file = UNDECIDED if vote.strength is None else PREFERENCES
    kept = {"verdict": vote.verdict, "strength": vote.strength, "file": file}
    return _told(pairing, kept=kept | {"a": pair.a.model, "b": pair.b.model})


async def _undo(request: Request) -> Response:
    pairing: Pairing = request.app.state.pairing
    pairing.undo()
    return _told(pairing)


async def _ask(request: Request) -> Response:
    pairing: Pairing = request.app.state.pairing
    try:
        asked = json.loads(await _json(request))
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}", where="body") from None
    text = asked.get("prompt") if isinstance(asked, dict) else None
    if not isinstance(text, str):
        raise DataError("a text is needed", where="field 'prompt'")
    pairing.ask(text)
    return _told(pairing)


async def _json(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/json":
        raise HTTPException(415, "the body must be application/json")
    return await request.body()


def _told(pairing: Pairing, **more: Any) -> Response:
    """The state as the page shows it, and `more` that was asked for."""
    pair = pairing.current()
    return JSONResponse(
        {
            "mode": pairing.mode,
            "asked": pairing.asked,
            "total": pairing.total,
            "preferences": pairing.ledger.counts[PREFERENCES],
            "undecided": pairing.ledger.counts[UNDECIDED],
            "undoable": pairing.undoable,
            "set_aside": {"count": pairing.set_aside, "reason": pairing.aside},
            "pair": pair and _shown(pair),
            **more,
        },
        headers=HEADERS,
    )


def _shown(pair: Pair) -> dict[str, Any]:
    return {
        "id": pair.id,
        "prompt": [
            {"role": message.get("role"), "content": message.get("content")}
            for message in pair.prompt.messages
        ],
        "done": pair.done,
        "a": _side(pair.a),
        "b": _side(pair.b),
    }


def _side(side: Side) -> dict[str, Any]:
    return {"text": side.text, "ended": side.ended, "cut": side.finish_reason == "length"}


async def _refuse(_: Request, error: Exception) -> Response:
    return _error(409 if isinstance(error, ConflictError) else 400, str(error))


async def _fail(_: Request, error: Exception) -> Response:
    """The disk is full or the files cannot be written: nothing is kept, and the person is told so."""
    return _error(500, f"the vote is not kept: {error}")


async def _not_served(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail)


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status_code=status, headers=HEADERS)
