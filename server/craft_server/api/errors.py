"""Errors as problem documents: whatever was raised becomes one refusal with its status."""

import logging

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from craft_server.api.services import services_of
from craft_server.db.store import StoreDown
from craft_server.observability.metrics import Metrics
from craft_shared.errors import PROBLEM_MEDIA_TYPE, Code, Refusal

_LOG = logging.getLogger(__name__)
_HTTP_CODES = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.TOO_LARGE}


CLIENT_CLOSED_REQUEST = 499
"""The status of a request whose client left before the reply, as nginx calls it; nobody sees it."""


async def on_disconnect(request: Request, error: Exception) -> Response:
    """End a request whose client left: neither a refusal nor a fault of the server."""
    del request, error
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """Answer with the problem document of an error, and count and log it."""
    refusal = _as_refusal(error)
    _report(refusal, services_of(request.app).metrics)
    headers = dict(getattr(error, "headers", None) or {})  # Allow, of a method that is refused
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if refusal.code is Code.INVALID_KEY:
        headers["WWW-Authenticate"] = "Bearer"
    problem = refusal.problem(request_id=request.scope.get("state", {}).get("request_id"))
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type=PROBLEM_MEDIA_TYPE,
    )


def _report(refusal: Refusal, metrics: Metrics) -> None:
    metrics.refused(refusal.code)
    if isinstance(refusal, StoreDown):
        metrics.outage()
        cause = refusal.__cause__
        _LOG.error("%s (%s)", refusal, getattr(cause, "orig", cause))  # SQLAlchemy's quotes values
    elif refusal.code is Code.NOT_READY:
        _LOG.error("not ready: %s", refusal)


def _as_refusal(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        detail = f"{where}: {first['msg']}; got {first.get('input')!r}"
        return Refusal(Code.INVALID_REQUEST, detail, param=where)
    if isinstance(error, HTTPException):
        code = _HTTP_CODES.get(error.status_code, Code.INVALID_REQUEST)
        return Refusal(code, str(error.detail))
    detail = f"{type(error).__name__}; ask again with the same Idempotency-Key, if it had one"
    return Refusal(Code.INTERNAL, detail)
