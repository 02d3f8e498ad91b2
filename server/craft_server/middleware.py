"""The outermost layer: request ids, and a cap on bodies before anybody reads them.

Pure ASGI: it passes `http.disconnect` on untouched, which decorator-style middleware hides.
"""

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from craft_server.logs import REQUEST_ID
from craft_server.rates import WINDOW_S, Standing
from craft_shared.errors import Code, Refusal

_LONGEST_ID = 64

_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class RequestId:
    """Gives each request an id: in `scope["state"]`, the reply's X-Request-Id, errors and logs.

    With `trusting`, the X-Request-Id of a proxy in front is taken if it is short and plain.
    """

    def __init__(self, app: ASGIApp, *, trusting: bool = False) -> None:
        self._app = app
        self._trusting = trusting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "") if self._trusting else ""
        request_id = given if _is_plain(given) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        REQUEST_ID.set(request_id)

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if rate := scope["state"].get("rate"):
                    headers.update(rate_headers(rate))
            await send(message)

        await self._app(scope, receive, marked)


def rate_headers(rate: Standing) -> dict[str, str]:
    """Where a key's rate stands, as draft-ietf-httpapi-ratelimit-headers-10 writes it."""
    return {
        "RateLimit-Policy": f'"calls";q={rate.limit};w={WINDOW_S}',
        "RateLimit": f'"calls";r={rate.remaining};t={rate.wait_s or rate.reset_s}',
    }


def _is_plain(given: str) -> bool:
    """Is it 1 to 64 visible ASCII characters?"""
    return 0 < len(given) <= _LONGEST_ID and all("!" <= char <= "~" for char in given)


class BodyCap:
    """Refuses encoded bodies and those over the cap, by the header or while they arrive."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; a refusal is raised to whoever reads the body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        received = 0

        async def capped() -> Message:
            nonlocal received
            self._check(headers)
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._too_large(f"more than {received}")
            return message

        await self._app(scope, capped, send)

    def _check(self, headers: Headers) -> None:
        encoding = headers.get("content-encoding", "identity")
        if encoding != "identity":
            detail = f"Content-Encoding {encoding!r} is not accepted; send the body as it is"
            raise Refusal(Code.MEDIA_TYPE, detail, param="Content-Encoding")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise self._too_large(length)

    def _too_large(self, size: str) -> Refusal:
        detail = f"a body of {size} bytes; at most {self._max_bytes} are allowed"
        return Refusal(Code.TOO_LARGE, detail, param="body")
