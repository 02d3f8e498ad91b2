"""One line in the log, one count and one span for every request that has ended.

Owns what is reported of a request. Pure ASGI. A request is named by its route's template: what a
client wrote into a path, a query or a header is not logged.
"""

import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from craft_server.api.errors import CLIENT_CLOSED_REQUEST
from craft_server.observability.logs import fields
from craft_server.observability.telemetry import Telemetry
from craft_server.observability.tracing import Tracer

_LOG = logging.getLogger(__name__)

UNMATCHED = "unmatched"
"""The route of every path that is none of the server's."""

_FAILED = 500
_PROBES = {"/livez", "/readyz"}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class AccessLog:
    """Watches requests and their replies pass."""

    def __init__(
        self, app: ASGIApp, *, telemetry: Telemetry, tracer: Tracer, write_log: bool = True
    ) -> None:
        """Report to `telemetry` and `tracer`; log requests if `write_log`."""
        self._app = app
        self._telemetry = telemetry
        self._tracer = tracer
        self._write_log = write_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status, sent = CLIENT_CLOSED_REQUEST, 0

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        with self._tracer.request(Headers(scope=scope).get("traceparent", "")) as span:
            try:
                await self._app(scope, receive, watched)
            except Exception:
                status = _FAILED
                raise
            finally:
                method, route = _method(scope), _route(scope)
                span.rename(f"{method} {route}")
                span.set(method=method, route=route, status=status)
                seconds = time.perf_counter() - began
                self._telemetry.request(method, route, status, seconds)
                self._write(scope, method, route, status=status, ms=seconds * 1000, sent=sent)

    def _write(
        self, scope: Scope, method: str, route: str, *, status: int, ms: float, sent: int
    ) -> None:
        level = logging.DEBUG if route in _PROBES else logging.INFO
        if self._write_log and _LOG.isEnabledFor(level):
            said = fields(
                method=method,
                route=route,
                status=status,
                ms=round(ms, 1),
                bytes_out=sent,
                key=scope.get("state", {}).get("key_id"),
            )
            _LOG.log(level, "request", extra=said)


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in _METHODS else "other"


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", UNMATCHED))
