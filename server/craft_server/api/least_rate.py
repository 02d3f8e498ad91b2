"""The least rate at which a body must come and a reply must be read, or its sender is cut off.

Only the time that is spent waiting for the other side counts. Every byte that passes buys time, and
nobody can save up more of it than the grace: who stalls for longer is cut, however much it sent.
"""

import asyncio
import logging
from typing import NamedTuple

_LOG = logging.getLogger(__name__)


class LeastRate(NamedTuple):
    """At least so many bytes a second, but for stalls of `grace_s` in all that it is behind."""

    bytes_s: float
    grace_s: float


NO_LEAST_RATE = LeastRate(bytes_s=1.0, grace_s=float("inf"))


class Pace:
    """How far behind the least rate one transfer is."""

    def __init__(self, least: LeastRate) -> None:
        self._least = least
        self.left_s = least.grace_s
        """For so long the other side may now be waited for."""

    def spend(self, seconds: float, passed: int) -> None:
        """Count time spent waiting, and the bytes that passed in it."""
        earned = passed / self._least.bytes_s
        self.left_s = min(self._least.grace_s, self.left_s - seconds + earned)


class Reader:
    """Cuts a connection whose other side reads its replies too slowly."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, least: LeastRate
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._least = least
        self._pace = Pace(least)
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._unsent = 0

    def start(self) -> None:
        """A new reply: it has all its grace, unless the one before is not read yet."""
        if self._timer is None:
            self._pace = Pace(self._least)

    def behind(self) -> None:
        """More is written than the reader has room for."""
        self._since = self._loop.time()
        self._unsent = self._transport.get_write_buffer_size()
        self._wait()

    def caught_up(self) -> None:
        """The reader has taken nearly all."""
        self._count()
        self.stop()

    def stop(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _count(self) -> None:
        now = self._loop.time()
        unsent = self._transport.get_write_buffer_size()
        self._pace.spend(now - self._since, self._unsent - unsent)
        self._since, self._unsent = now, unsent

    def _wait(self) -> None:
        self.stop()
        if self._pace.left_s < float("inf"):
            self._timer = self._loop.call_later(self._pace.left_s, self._look)

    def _look(self) -> None:
        self._count()
        if self._pace.left_s > 0:
            self._wait()
        else:
            slow = "a reader took less than %g bytes a second and was cut off"
            _LOG.warning(slow, self._least.bytes_s)
            self._transport.abort()
