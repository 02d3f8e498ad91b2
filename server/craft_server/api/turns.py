"""A few threads for what many may ask to read or to have written as text, in turns of owners.

Owns the threads, the turns and the wait for one. On the event loop such work would stop everybody,
on its common threads it would keep purchases waiting, and on many threads of its own it would take
the interpreter from both.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TypeVar

from craft_server.accounts.shares import Caller, Shares
from craft_server.concurrency import FairSemaphore, on_thread
from craft_shared.errors import Code, Refusal

T = TypeVar("T")

_RETRY_AFTER_S = 5


class Turns:
    """Runs functions on `threads` threads; of two or more, one owner has all but one at most.

    Args:
        name: of the threads.
        threads: functions that run at a time.
        shares: how many calls of one key and one owner may wait or run.
        deadline_s: longest wait for a turn.
    """

    def __init__(self, name: str, *, threads: int, shares: Shares, deadline_s: float) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._slots = FairSemaphore(threads)
        self._shares = shares
        self._deadline_s = deadline_s

    async def run(self, caller: Caller, work: Callable[[], T]) -> T:
        """Wait for a turn and run a function; its slot is taken until that ends.

        A caller that leaves meanwhile is free at once.

        Raises:
            Refusal: `rate_limited`, too many of this key or owner wait; `deadline_exceeded`.
        """
        async with AsyncExitStack() as turn:
            turn.enter_context(self._shares.lease(caller, 1))
            try:
                async with asyncio.timeout(self._deadline_s):
                    await turn.enter_async_context(self._slots.slot(caller.owner))
            except TimeoutError as error:
                detail = f"no turn for this read after {self._deadline_s:g} s"
                raise Refusal(
                    Code.DEADLINE_EXCEEDED, detail, retry_after_s=_RETRY_AFTER_S
                ) from error
            return await on_thread(self._threads, work, turn.pop_all())

    def close(self) -> None:
        """Let what runs finish and end the threads."""
        self._threads.shutdown()
