"""The outermost layer: request ids, and bounds on bodies before anybody reads them.

Pure ASGI: it passes `http.disconnect` on untouched, which decorator-style middleware hides.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from craft_server.accounts.pacing import Pacing
from craft_server.accounts.rate_limit import WINDOW_S, RateStatus
from craft_server.accounts.shares import NOBODY, Lease, ShareLimits, Shares
from craft_server.api.least_rate import NO_LEAST_RATE, LeastRate, Pace
from craft_server.observability.logs import REQUEST_ID
from craft_shared.errors import Code, Refusal
from craft_shared.tensors import TENSOR_MEDIA_TYPE

RETRY_AFTER_S = 5

PROBES = frozenset({"/livez", "/readyz"})
_LONGEST_ID = 64

_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

_LARGE_TYPES = frozenset({TENSOR_MEDIA_TYPE, "multipart/form-data"})
"""Bodies that take as much memory as they have bytes. JSON takes up to 40 times that."""

_SMALL = 2**20
"""Bytes that every body may have, whatever is in memory: nobody can keep small requests out."""


@dataclass(frozen=True)
class BodyLimits:
    """What bodies may take: one of tensors or files, one of JSON, all together; and time.

    Of all bytes, one owner's bodies take at most half and one key's a quarter, but always one body.
    """

    bytes: int
    json_bytes: int
    all_bytes: int
    seconds: float
    least: LeastRate = NO_LEAST_RATE

    @property
    def shares(self) -> ShareLimits:
        """Of all bytes."""
        return ShareLimits(
            key=max(self.all_bytes // 4, self.bytes),
            owner=max(self.all_bytes // 2, self.bytes),
            everybody=self.all_bytes,
        )


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
                if scope["state"].get("close"):
                    headers["Connection"] = "close"
                if rate := scope["state"].get("rate"):
                    headers.update(rate_headers(rate))
            await send(message)

        await self._app(scope, receive, marked)


class KeylessTurns:
    """Answers of requests without a good key, whatever they say, come in turns; probes at once."""

    def __init__(self, app: ASGIApp, *, pacing: Pacing) -> None:
        self._app = app
        self._pacing = pacing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return

        async def in_turn(message: Message) -> None:
            if message["type"] == "http.response.start" and "key_id" not in scope["state"]:
                scope["state"]["begun"]()  # who waits here keeps nobody from beginning
                await self._pacing.turn(NOBODY.owner)
            await send(message)

        await self._app(scope, receive, in_turn)


def rate_headers(rate: RateStatus) -> dict[str, str]:
    """A key's rate limit, as draft-ietf-httpapi-ratelimit-headers-10 writes it."""
    return {
        "RateLimit-Policy": f'"calls";q={rate.limit};w={WINDOW_S}',
        "RateLimit": f'"calls";r={rate.remaining};t={rate.wait_s or rate.reset_s}',
    }


def _is_plain(given: str) -> bool:
    """Is it 1 to 64 visible ASCII characters?"""
    return 0 < len(given) <= _LONGEST_ID and all("!" <= char <= "~" for char in given)


class BodyCap:
    """Bounds bodies before and while they are read: size, encoding, time, and all in memory.

    A refusal is raised where the body is read. It costs the sender the request, and the reader
    no more than one piece over the limit.

    Args:
        app: what reads the bodies.
        limits: what they may take.
    """

    def __init__(self, app: ASGIApp, *, limits: BodyLimits) -> None:
        self._app = app
        self._limits = limits
        self._in_memory = Shares("bytes of bodies in work", limits.shares)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, Headers(scope=scope), self._limits)
        memory: Lease | None = None

        async def counted() -> Message:
            nonlocal memory
            message = await body.receive()
            if memory is None and body.large:  # by now the key is known: nobody reads before it is
                memory = self._in_memory.lease(scope.get("state", {}).get("caller", NOBODY))
            if memory is not None:
                memory.grow(body.large - memory.amount)
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            if memory is not None:
                memory.close()


class _Body:
    """One request's body on its way in."""

    def __init__(self, receive: Receive, headers: Headers, limits: BodyLimits) -> None:
        self._receive = receive
        self._headers = headers
        self._limits = limits
        self._complete = False
        self._bytes = 0
        self._seconds_left = limits.seconds
        self._pace = Pace(limits.least)
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        self._most = limits.bytes if kind in _LARGE_TYPES else limits.json_bytes

    @property
    def large(self) -> int:
        """Bytes over what every body may have."""
        return max(0, self._bytes - _SMALL)

    async def receive(self) -> Message:
        """The next piece, or a refusal."""
        self._check_header()
        message = await (self._receive() if self._complete else self._in_time())
        self._complete = self._complete or not message.get("more_body", False)
        size = len(message.get("body", b""))
        self._bytes += size
        self._pace.spend(0.0, size)
        if self._bytes > self._most:
            raise self._too_large(f"more than {self._bytes}")
        return message

    async def _in_time(self) -> Message:
        """Only the time that is spent waiting counts: a server in work does not hurt a sender."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(min(self._seconds_left, self._pace.left_s)):
                return await self._receive()
        except TimeoutError as error:
            raise self._too_slow() from error
        finally:
            waited_s = time.monotonic() - began
            self._seconds_left -= waited_s
            self._pace.spend(waited_s, 0)

    def _too_slow(self) -> Refusal:
        limits = self._limits
        detail = (
            f"the body had {self._bytes} bytes and was not complete; it has {limits.seconds:g} s "
            f"in all, and at least {limits.least.bytes_s:g} bytes must come in a second, but for "
            f"{limits.least.grace_s:g} s; send less at a time"
        )
        return Refusal(Code.DEADLINE_EXCEEDED, detail, param="body", retry_after_s=RETRY_AFTER_S)

    def _check_header(self) -> None:
        encoding = self._headers.get("content-encoding", "identity")
        if encoding != "identity":
            detail = f"Content-Encoding {encoding!r} is not accepted; send the body as it is"
            raise Refusal(Code.MEDIA_TYPE, detail, param="Content-Encoding")
        length = self._headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._most:
            raise self._too_large(length)

    def _too_large(self, size: str) -> Refusal:
        detail = f"a body of {size} bytes; at most {self._most} are allowed"
        if self._most < self._limits.bytes:
            detail += f", and {self._limits.bytes} of {' or '.join(sorted(_LARGE_TYPES))}"
        return Refusal(Code.TOO_LARGE, detail, param="body")
