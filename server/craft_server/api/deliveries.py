"""Replies on their way out: in pieces, so that a request ends when its reader has taken its reply.

Pure ASGI. uvicorn takes a body of any size at once and holds it until the reader has it, long after
the request has ended here. In pieces it makes us wait, and what the request holds (its place among
the key's requests, the memory of its body and reply) is held for as long as it takes memory.
connection_limits.py cuts off who reads too slowly.
"""

import asyncio
from contextlib import ExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PIECE_BYTES = 2**17
"""Written at a time: what a reader that takes nothing holds in the socket's buffer."""

_SMALL_BYTES = 2**16
"""A body of so many bytes leaves as it is: so much a connection may have in its buffer anyhow."""


class Deliveries:
    """Sends large bodies in pieces, and lets go what the request holds when the last one is taken.

    Handlers push what is to be held until then on `scope["state"]["held"]`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def in_pieces(message: Message) -> None:
            body = message.get("body", b"")
            if len(body) <= _SMALL_BYTES:
                await send(message)
                return
            for start in range(0, len(body), PIECE_BYTES):
                piece = body[start : start + PIECE_BYTES]
                await send({"type": message["type"], "body": piece, "more_body": True})
                await asyncio.sleep(0)  # uvloop writes, and says that it is full, between two tasks
            if not message.get("more_body", False):
                await send({"type": message["type"], "body": b"", "more_body": False})

        with ExitStack() as held:
            scope.setdefault("state", {})["held"] = held
            await self._app(scope, receive, in_pieces)
