"""Threads of our own: pools for calls of one kind, and the way from a thread back to an event loop.

Owns two things. `Workers` keeps kinds of calls apart: where one kind waits for the store, the
others have threads of their own, and no call waits for a thread for long. `Completion` is the step
that db/group_commit.py and engine/scheduler.py share: each runs many callers' functions on one
thread. `concurrent.futures` does the same with a lock and a condition for each future. Over
100,000 items in groups of 8 that took 3 to 4 times the CPU time.
"""

import asyncio
import contextvars
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

from craft_shared.errors import Code, Refusal

P = ParamSpec("P")
T = TypeVar("T")

RETRY_AFTER_S = 1
"""When a client may ask again after its call found no thread."""


class Workers:
    """Threads for calls of one kind.

    A call waits for a thread for a bounded time, and only so many calls do. One that has begun is
    not cut: what it waits for must have a bound of its own.

    Args:
        name: of the kind, in a refusal and of the threads.
        threads: calls at a time.
        wait_s: longest wait for a thread, seconds.
        waiting: most calls that wait or run; None is any number.
    """

    def __init__(
        self, name: str, *, threads: int, wait_s: float, waiting: int | None = 256
    ) -> None:
        self._name = name
        self._wait_s = wait_s
        self._most = waiting
        self._open = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call on a thread; a caller that is cancelled meanwhile takes it out of the queue.

        Raises:
            Refusal: `overloaded`, too many wait; `not_ready`, no thread was free in time. The call
                was not begun.
        """
        if self._most is not None and self._open >= self._most:
            detail = f"{self._open} calls for {self._name} are in work already"
            raise Refusal(Code.OVERLOADED, detail, retry_after_s=RETRY_AFTER_S)
        work = partial(contextvars.copy_context().run, partial(call, *args, **kwargs))
        job = self._threads.submit(work)
        result: asyncio.Future[T] = asyncio.wrap_future(job)
        self._open += 1
        result.add_done_callback(self._ended)
        late = False

        def give_up() -> None:
            nonlocal late
            late = job.cancel()  # False if it has begun

        timer = asyncio.get_running_loop().call_later(self._wait_s, give_up)
        try:
            return await result
        except asyncio.CancelledError as error:
            if not late:
                raise
            detail = f"no thread for {self._name} was free within {self._wait_s:g} s"
            raise Refusal(Code.NOT_READY, detail, retry_after_s=RETRY_AFTER_S) from error
        finally:
            timer.cancel()

    def close(self) -> None:
        """Finish what waits and runs, then end the threads."""
        self._threads.shutdown()

    def _ended(self, _result: "asyncio.Future[Any]") -> None:
        self._open -= 1


class FairSemaphore:
    """A few slots that owners share: who has fewest goes first, and nobody takes the last one.

    With one slot, owners take it in turns.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._most = max(1, count - 1)
        self._taken: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Event]] = []
        self._last = ""

    @asynccontextmanager
    async def slot(self, owner: str) -> AsyncIterator[None]:
        """Have a slot within the block."""
        await self.enter(owner)
        try:
            yield
        finally:
            self.leave(owner)

    async def enter(self, owner: str) -> None:
        """Wait for a slot; `leave` it once."""
        if self._free and not self._waiting and self._taken[owner] < self._most:
            self._take(owner)
            return
        turn = asyncio.Event()
        self._waiting.append((owner, turn))
        self._let_in()
        try:
            await turn.wait()
        except asyncio.CancelledError:
            if turn.is_set():
                self.leave(owner)
            else:
                self._waiting.remove((owner, turn))
            raise

    def leave(self, owner: str) -> None:
        """Give a slot to who is next."""
        self._free += 1
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]
        self._let_in()

    def _take(self, owner: str) -> None:
        self._free -= 1
        self._taken[owner] += 1
        self._last = owner

    def _let_in(self) -> None:
        def rank(waiting: tuple[str, asyncio.Event]) -> tuple[int, bool]:
            return self._taken[waiting[0]], waiting[0] == self._last

        while self._free and self._waiting:
            owner, turn = first = min(self._waiting, key=rank)
            if self._taken[owner] >= self._most:
                return
            self._waiting.remove(first)
            self._take(owner)
            turn.set()


async def ended(work: "asyncio.Future[Any]") -> None:
    """Wait until work is done, whatever it comes to; it goes on if the caller is cancelled.

    As `asyncio.wait([work])`, in a third of the time: every purchase waits three times.
    """
    if not work.done():
        waiter = asyncio.get_running_loop().create_future()
        wake = partial(_wake, waiter)
        work.add_done_callback(wake)
        try:
            await waiter
        finally:
            work.remove_done_callback(wake)


def _wake(waiter: "asyncio.Future[None]", _: "asyncio.Future[Any]") -> None:
    if not waiter.done():
        waiter.set_result(None)


async def on_thread(threads: Executor, work: Callable[[], T], held: AsyncExitStack) -> T:
    """Work on a thread; what is held is given back when that ends, also if the caller leaves first.

    Args:
        threads: of whom one does it.
        work: what is done to its end, whoever still waits for it.
        held: a slot, a share; this function's from now on.
    """
    ended = asyncio.ensure_future(_then_give_back(threads, work, held))
    ended.add_done_callback(_heard)
    return await asyncio.shield(ended)


async def _then_give_back(threads: Executor, work: Callable[[], T], held: AsyncExitStack) -> T:
    async with held:
        return await asyncio.get_running_loop().run_in_executor(threads, work)


def _heard(ended: "asyncio.Future[Any]") -> None:
    """An error of work whose caller left is nobody's."""
    if not ended.cancelled():
        ended.exception()


class Completion(NamedTuple):
    """What a call returned, or what it raised."""

    value: Any
    error: BaseException | None

    @staticmethod
    def of(call: Callable[[], Any], *, only: type[BaseException] = BaseException) -> "Completion":
        """Make a call. An error of type `only` is its caller's; others are raised here."""
        try:
            return Completion(call(), None)
        except only as error:
            return Completion(None, error)

    def deliver(self, future: asyncio.Future[Any]) -> None:
        """Resolve the caller's future, on its own loop's thread, unless it is done already."""
        if future.done():
            return
        if self.error is None:
            future.set_result(self.value)
        else:
            future.set_exception(self.error)
