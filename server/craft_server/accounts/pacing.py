"""Turns of requests that buy nothing: so many a second of one owner, and who asks for more waits.

A refusal, a look at a budget or a free replay costs the server a millisecond or two, and a client
that repeats it takes a whole core from all others. Nothing is refused here: the request waits, on
its own connection and in its own share, before anybody works for it. What is sold gives its turn
back, so that who only buys never waits; who has asked for too much waits with purchases as well,
for some seconds.

Nobody knows beforehand which requests buy, so those in work count as if they did not. How many an
owner may have at once depends on what it bought in the last seconds: few at first, many for who
goes on buying.

Three numbers per owner, the moment at which its turns are all there again, as in rate_limit.py, and
what it bought. Lives in memory, on one thread; each replica has its own.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from cachetools import LRUCache

_AT_FIRST_S = 0.2
_BURST_S = 3.0
"""So many seconds' worth of turns an owner may take at once: at first, and at most."""
_LONGEST_S = 2.0
"""Of a wait: an owner's share of requests bounds how many wait, this those of nobody."""
_ROUNDING_S = 1e-9
_KEPT = 65_536


class _Owner:
    """One owner's turns.

    Attributes:
        full_at: when all turns are there again, if it takes no other.
    """

    def __init__(self, now: float) -> None:
        self.full_at = now
        self._bought = 0.0
        self._counted_at = now

    def buys(self, now: float) -> None:
        """Count what it bought; older purchases fade within `_BURST_S`."""
        self._bought = self._lately(now) + 1
        self._counted_at = now

    def burst_s(self, now: float, each_s: float) -> float:
        """What it may take at once: what it bought lately, beside what everybody may."""
        return min(_BURST_S, _AT_FIRST_S + each_s * self._lately(now))

    def _lately(self, now: float) -> float:
        return self._bought * math.exp((self._counted_at - now) / _BURST_S)


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
        self._owners: LRUCache[str, _Owner] = LRUCache(_KEPT)

    async def turn(self, owner: str) -> None:
        """Take a turn and wait until it comes; all who have no good key are one owner, ""."""
        if not self._each_s:
            return
        now = self._clock()
        known = self._owners.get(owner)
        if known is None:
            known = self._owners[owner] = _Owner(now)
        burst_s = known.burst_s(now, self._each_s)
        full_at = max(known.full_at, now) + self._each_s
        known.full_at = min(full_at, now + burst_s + _LONGEST_S)  # old debts do not add up
        wait_s = known.full_at - now - burst_s
        if wait_s > _ROUNDING_S:
            await self._sleep(wait_s)

    def give_back(self, owner: str) -> None:
        """The turn was for something that is paid."""
        if known := self._owners.get(owner):
            known.full_at -= self._each_s
            known.buys(self._clock())
