"""The rate limit of a key: a bucket of one minute's calls that fills as time passes.

The generic cell rate algorithm: one number per key, the moment at which its bucket is full again.
It protects one server process and is not accounting, so it lives in memory, and each replica has
its own; budgets and the number of requests in work are in the store and exact over all replicas.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from cachetools import LRUCache

from craft_shared.errors import Code, Refusal

WINDOW_S = 60
_KEPT = 65_536
"""Of more keys the one that called longest ago is forgotten: its bucket is full."""
_ROUNDING_S = 1e-6


class RateStatus(NamedTuple):
    """A key's rate after a call: `remaining` of `limit` now, all in `reset_s` seconds.

    `wait_s` is 0 for a call that may go on, else the seconds until one may.
    """

    limit: int
    remaining: int
    reset_s: int
    wait_s: int = 0

    def refusal(self) -> Refusal:
        """The refusal of a call that came too early."""
        detail = f"this key may make {self.limit} calls a minute; try again in {self.wait_s} s"
        return Refusal(Code.RATE_LIMITED, detail, param="rate", retry_after_s=self.wait_s)


class RateLimiter:
    """Counts calls by key, on one thread.

    Args:
        per_minute: calls a minute of a key whose policy says nothing; 0 is no limit.
        clock: seconds that only grow.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._full_at: LRUCache[str, float] = LRUCache(_KEPT)

    def take(self, key_id: str, per_minute: int | None) -> RateStatus | None:
        """Count one call, unless it comes too early; None where the key has no limit."""
        limit = self._per_minute if per_minute is None else per_minute
        if not limit:
            return None
        now, each = self._clock(), WINDOW_S / limit
        full_at = max(self._full_at.get(key_id, now), now)
        early_s = full_at + each - now - WINDOW_S
        allowed = early_s <= _ROUNDING_S
        full_at += each * allowed
        self._full_at[key_id] = full_at
        filling_s = full_at - now
        return RateStatus(
            limit,
            remaining=int((WINDOW_S - filling_s) / each + _ROUNDING_S),
            reset_s=math.ceil(filling_s),
            wait_s=0 if allowed else max(1, math.ceil(early_s)),
        )
