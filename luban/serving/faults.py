"""What a caller is told when a request cannot be answered, in the shape that OpenAI's clients read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from luban.errors import LubanError
from luban.inference.engine.async_engine import EngineStoppedError

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
"""OpenAI's `type` by status, where it is not `invalid_request_error` (4xx) or `server_error` (5xx)."""


class ServingError(LubanError):
    """A request that is refused or failed: `status`, `param` (the field at fault) and `code` go to the caller."""

    def __init__(
        self,
        what: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(what)
        self.status, self.param, self.code = status, param, code
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.what, "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> Response:
        """The whole answer."""
        headers: dict[str, str] = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return json_response(self.body, status=self.status, headers=headers)


class ClientGone(Exception):  # noqa: N818 - nobody made a mistake
    """The caller hung up; there is nobody to tell."""

    status = 499
    """As in nginx's logs."""


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON; keys may be numbers."""
    content = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    return Response(content, status_code=status, headers=headers, media_type="application/json")


def as_serving_error(error: LubanError) -> ServingError:
    """`error` as a caller is told it: what the engine or a template refuses is the request's fault."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, EngineStoppedError):
        return ServingError(error.what, status=503, code="engine_stopped", retry_after_s=30)
    return ServingError(str(error), code="invalid_value")


async def tell_luban_error(_request: Request, error: Exception) -> Response:
    """For the router: a refusal anywhere below it."""
    assert isinstance(error, LubanError)
    return as_serving_error(error).response


async def tell_http_error(request: Request, error: Exception) -> Response:
    """For the router: a path that does not exist, or a method that it does not have."""
    assert isinstance(error, HTTPException)
    place = f"{request.method} {request.url.path}"
    what = {404: "there is no such path", 405: "the path does not take this method"}
    message = f"{place}: {what.get(error.status_code, error.detail)}"
    told = ServingError(
        message, status=error.status_code, code="not_found" if error.status_code == 404 else None
    )
    response = told.response
    response.headers.update(error.headers or {})
    return response


async def tell_gone(_request: Request, _error: Exception) -> Response:
    """For the router: a response that nobody reads, so that the log has a status."""
    return Response(status_code=ClientGone.status)
