"""One worker per device: a bounded queue in front of one thread.

Owns admission and the order of device work. Must not know keys, budgets or models: a job is a
callable. Admission comes before any budget is touched, so that overload never takes holds.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from craft_shared.errors import Code, Refusal

T = TypeVar("T")

_RETRY_AFTER_S = 2


class DeviceWorker:
    """Runs jobs one after the other on a thread of its own.

    A job that waits can be cancelled and is then never run; a job that runs is finished. An
    exception belongs to its job alone: the thread lives on.
    """

    def __init__(self, *, queue: int) -> None:
        """Take at most `queue` admitted requests at a time, waiting and running together."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
        self._places = queue
        self._admitted = 0
        self._draining = False
        self._last_success = float("-inf")

    @property
    def draining(self) -> bool:
        """True once `close` was called: nothing new is admitted."""
        return self._draining

    @property
    def idle_s(self) -> float:
        """Seconds since the device last finished a job well; infinite before the first."""
        return time.monotonic() - self._last_success

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place in the queue for the body of the `with`.

        Raises:
            Refusal: `draining` or `overloaded`, both with Retry-After.
        """
        if self._draining:
            raise Refusal(
                Code.DRAINING, "the server is shutting down", retry_after_s=_RETRY_AFTER_S
            )
        if self._admitted >= self._places:
            detail = f"{self._admitted} requests are queued, at most {self._places} are allowed"
            raise Refusal(Code.OVERLOADED, detail, retry_after_s=_RETRY_AFTER_S)
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def run(self, job: Callable[[], T], *, deadline_s: float) -> T:
        """Run a job on the device thread and wait for it.

        If the caller is cancelled, a job that still waits is dropped and never run, and the
        cancellation goes on; a job that runs is finished and its result returned.

        Raises:
            Refusal: `deadline_exceeded` after `deadline_s` seconds of waiting and running (a
                running job's result is then thrown away), `draining` if it was dropped.
        """
        future = self._thread.submit(self._timed, job)
        waiter = asyncio.wrap_future(future)
        try:
            await asyncio.wait([waiter], timeout=deadline_s)
        except asyncio.CancelledError:
            if future.cancel():
                raise
            await asyncio.wait([waiter])
        if not waiter.done():
            raise _too_late(deadline_s, "in the queue" if future.cancel() else "on the device")
        if waiter.cancelled():
            raise Refusal(Code.DRAINING, "the server shut down before the work began")
        return waiter.result()

    def close(self) -> None:
        """Admit nothing more, drop what waits, let the running job finish."""
        self._draining = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def drain(self) -> None:
        """Admit nothing more; what was admitted goes on."""
        self._draining = True

    def _timed(self, job: Callable[[], T]) -> T:
        result = job()
        self._last_success = time.monotonic()
        return result


def _too_late(deadline_s: float, where: str) -> Refusal:
    detail = f"not finished after {deadline_s:g} s; the time ended {where}"
    return Refusal(Code.DEADLINE_EXCEEDED, detail, retry_after_s=_RETRY_AFTER_S)
