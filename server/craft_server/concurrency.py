"""From a thread of our own back to an event loop: what came of a call, and how a waiter is told.

teller.py and scheduler.py each run other people's calls on one thread. Must not know what they are.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """What a call returned, or what it raised."""

    value: Any
    error: BaseException | None

    @staticmethod
    def of(call: Callable[[], Any], *, only: type[BaseException] = BaseException) -> "Outcome":
        """Make a call. An error of type `only` belongs to whoever waits for it; others pass."""
        try:
            return Outcome(call(), None)
        except only as error:
            return Outcome(None, error)

    def tell(self, waiter: asyncio.Future[Any]) -> None:
        """Tell a waiter, on its own loop's thread, unless it waits no more."""
        if waiter.done():
            return
        if self.error is None:
            waiter.set_result(self.value)
        else:
            waiter.set_exception(self.error)
