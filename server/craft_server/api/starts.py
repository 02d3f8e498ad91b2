"""How requests begin: few at a time, in turns of keys, so that a crowd is not one long step.

The event loop makes all that is ready in one round, and everybody's next step waits for its end. A
few hundred requests that arrive at once are such a round of a second, and a purchase has some six
steps. So a request waits here until it is its key's turn, and the next one begins when this one's
key is known and counted; what it does then is in its key's and owner's shares.
"""

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from craft_server.api.middleware import PROBES
from craft_server.concurrency import FairSemaphore

_AT_A_TIME = 8


class Starts:
    """Lets requests begin in turns; whoever counts a key calls `scope["state"]["begun"]`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._slots = FairSemaphore(_AT_A_TIME)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        whose = Headers(scope=scope).get("authorization", "")
        await self._slots.enter(whose)
        loop = asyncio.get_running_loop()
        begun = _once(lambda: loop.call_soon(self._slots.leave, whose))
        scope.setdefault("state", {})["begun"] = begun

        async def answered(message: Message) -> None:
            begun()
            await send(message)

        try:
            await self._app(scope, receive, answered)
        finally:
            begun()


def _once(act: Callable[[], object]) -> Callable[[], None]:
    acts = [act]

    def once() -> None:
        if acts:
            acts.pop()()

    return once
