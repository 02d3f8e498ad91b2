"""The end of a request's time, whatever it waits for.

Owns the last word on `deadline_s`. Parts of the server refuse by themselves when the time is over;
a little later the request is answered here, so that a part that forgot, or waits for something that
hangs, keeps no client. Nobody is charged by that: the work is cancelled as if the client had left.
"""

import asyncio

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from craft_server.api.errors import on_error
from craft_shared.errors import Code, Refusal

_GRACE_S = 0.5
"""For a refusal that knows better what took the time."""

_RETRY_AFTER_S = 1


class Deadlines:
    """Refuses a request that has no answer when its time is over; one that has begun goes on.

    Args:
        app: what answers.
        seconds: the time of a request, from its head on.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False
        try:
            async with asyncio.timeout(self._seconds + _GRACE_S) as deadline:

                async def watched(message: Message) -> None:
                    nonlocal begun
                    if not begun and not deadline.expired():
                        deadline.reschedule(None)
                    begun = True
                    await send(message)

                await self._app(scope, receive, watched)
        except TimeoutError:
            if begun or not deadline.expired():
                raise
            detail = f"no answer within {self._seconds:g} s; a retry has the same Idempotency-Key"
            late = Refusal(Code.DEADLINE_EXCEEDED, detail, retry_after_s=_RETRY_AFTER_S)
            reply = await on_error(Request(scope), late)
            await reply(scope, receive, send)
