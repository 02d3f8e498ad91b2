"""Turns of requests that buy nothing: so many a second of one owner, and who asks for more waits.

A refusal, a look at a budget or a free replay costs the server a millisecond or two, and a client
that repeats it takes a whole core from all others. Nothing is refused here: the request waits, on
its own connection and in its own share, before anybody works for it. What is sold gives its turn
back, so that who only buys never waits; who has asked for too much waits with purchases as well,
for some seconds.

One number per owner, the moment at which its turns are all there again, as in rate_limit.py. Lives
in memory, on one thread; each replica has its own.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from cachetools import LRUCache

_BURST_S = 3.0
"""So long an owner may take turns that it did not use before."""
_LONGEST_S = 2.0
"""Of a wait: an owner's share of requests bounds how many wait, this those of nobody."""
_ROUNDING_S = 1e-9
_KEPT = 65_536


class Pacing:
    """Gives turns, on one thread.

    Args:
        per_second: turns of one owner; 0 gives every turn at once.
        clock: seconds that only grow.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._each_s = 1 / per_second if per_second else 0.0
        self._clock = clock
        self._sleep = sleep
        self._full_at: LRUCache[str, float] = LRUCache(_KEPT)

    async def turn(self, owner: str) -> None:
        """Take a turn and wait until it comes; all who have no good key are one owner, ""."""
        if not self._each_s:
            return
        now = self._clock()
        full_at = max(self._full_at.get(owner, now), now) + self._each_s
        full_at = min(full_at, now + _BURST_S + _LONGEST_S)  # old debts do not add up
        self._full_at[owner] = full_at
        wait_s = full_at - now - _BURST_S
        if wait_s > _ROUNDING_S:
            await self._sleep(wait_s)

    def give_back(self, owner: str) -> None:
        """The turn was for something that is paid."""
        if owner in self._full_at:
            self._full_at[owner] -= self._each_s
