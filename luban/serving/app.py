"""The HTTP application: paths, and the layers that every request passes on its way to them.

From the outside in: the access log and metrics, CORS, the gate (keys, rates, stopping), the router. Whatever is
refused on the way is told in OpenAI's form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from luban.errors import LubanError
from luban.serving import openapi
from luban.serving.answers import Health, Model, Models
from luban.serving.chats import chats
from luban.serving.completions import completions
from luban.serving.embeddings import embeddings
from luban.serving.faults import (
    ClientGone,
    json_response,
    tell_gone,
    tell_http_error,
    tell_luban_error,
)
from luban.serving.files import file_routes, studio_files
from luban.serving.gate import Closing, Gate
from luban.serving.log import AccessLog, Record, write_record
from luban.serving.metrics import Metrics
from luban.serving.scores import scores
from luban.serving.served import Served, served_by

POSTS = {
    "/v1/completions": completions,
    "/v1/chat/completions": chats,
    "/v1/embeddings": embeddings,
    "/v1/score": scores,
}


def make_app(
    served: Served, *, keys: Sequence[str] = (), origins: Sequence[str] = (), access_log: bool = True
) -> Starlette:
    """The application. `app.state` has `served`, `closing` and `inside` (requests being answered, by caller)."""
    metrics = Metrics(served.engine.stats, frozenset({*POSTS, "/v1/models", "/health", "/metrics"}))
    closing, inside = Closing(), Counter[str]()

    def tell(record: Record) -> None:
        metrics.count(record)
        if access_log:
            write_record(record)

    gate = {"limits": served.limits, "keys": keys, "closing": closing, "inside": inside}
    layers = [Middleware(AccessLog, tell=tell)]
    if origins:
        layers.append(
            Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
        )
    layers.append(Middleware(Gate, **gate, waiting=lambda: served.waiting))
    app = Starlette(routes=_routes(metrics, keys=bool(keys)), middleware=layers, exception_handlers=_TOLD)
    app.state.served, app.state.closing, app.state.inside = served, closing, inside
    return app


_TOLD: dict[Any, Any] = {
    LubanError: tell_luban_error,
    HTTPException: tell_http_error,
    ClientGone: tell_gone,
}


def _routes(metrics: Metrics, *, keys: bool) -> list[BaseRoute]:
    api = openapi.document(keys=keys)
    page = openapi.page(api)

    async def tell_metrics(_request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def tell_api(_request: Request) -> Response:
        return json_response(api)

    async def show_api(_request: Request) -> Response:
        return HTMLResponse(page)

    routes: list[BaseRoute] = [Route(path, endpoint, methods=["POST"]) for path, endpoint in POSTS.items()]
    routes += [
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", one_model),
        Route("/health", health),
        Route("/metrics", tell_metrics),
        Route("/openapi.json", tell_api),
        Route("/docs", show_api),
        Route("/v1/{rest:path}", nowhere, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]
    return [*routes, *file_routes(studio_files())]


async def models(request: Request) -> Response:
    """What is served."""
    told: Models = {"object": "list", "data": [_model(served_by(request))]}
    return json_response(told)


async def one_model(request: Request) -> Response:
    """What is served, asked for by its name."""
    served = served_by(request)
    served.require(request.path_params["name"])
    return json_response(_model(served))


async def health(request: Request) -> Response:
    """Whether requests are answered: 200, or 503 for who sends them here to send them elsewhere."""
    state = request.app.state
    told: Health = {"status": "ok"}
    if state.served.engine.stopped:
        told = {"status": "stopped"}
    elif state.closing.begun():
        told = {"status": "stopping"}
    return json_response(told, status=200 if told["status"] == "ok" else 503)


async def nowhere(request: Request) -> Response:
    """What is no path of the API, or has not this method; said here, before the pages for people are looked through."""
    if request.url.path in POSTS:
        raise HTTPException(405, headers={"Allow": "POST"})
    raise HTTPException(404)


def _model(served: Served) -> Model:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "luban",
        "max_model_len": served.lm.context,
    }
