"""One worker per device: bounded admission, a fair queue, and one thread that runs tasks.

Owns admission and the order of device tasks. Admission comes before any budget is touched, so that
overload never takes holds.

fair_queue.py has the order: owners take turns, tasks of one group may run together in one call. The
thread takes what waits as soon as it is free; it never waits for more to come.
"""

import asyncio
import logging
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from craft_server.concurrency import Completion
from craft_server.engine.fair_queue import FairQueue
from craft_server.engine.tasks import RETRY_AFTER_S, Deadline, DeviceTask, Done
from craft_server.observability.logs import chain
from craft_server.observability.telemetry import Telemetry
from craft_shared.errors import Code, Refusal

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


class DeviceWorker:
    """Runs tasks one batch after the other on a thread of its own.

    A task that waits can be cancelled and is then never run; one that runs is finished. An
    exception belongs to its task alone, also in a batch: the thread lives on.
    """

    def __init__(
        self,
        *,
        requests: int,
        units: int,
        most_together: int = 0,
        ahead: bool = False,
        start: Callable[[], None] = lambda: None,
        recover: Callable[[], None] = lambda: None,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Bound what is admitted.

        Args:
            requests: most requests admitted at a time, waiting and running.
            units: most texts and images those may ask for together.
            most_together: largest sum of sizes in one merged batch; 0 merges nothing.
            ahead: launch the next batch before waiting for the last one.
            start: called on the thread before any task.
            recover: called on the thread after a task failed, with nothing of it held any more.
            telemetry: counts each batch.
        """
        self._room = {"requests": requests, "units": units}
        self._admitted = {"requests": 0, "units": 0}
        self._queue: FairQueue[_QueuedTask] = FairQueue(most_together=most_together)
        self._ahead = ahead
        self._start = start
        self._recover = recover
        self._telemetry = telemetry or Telemetry()
        self._draining = False
        self._running_since: float | None = None
        self._last_success = self._last_failure = float("-inf")
        threading.Thread(target=self._serve, name="device", daemon=True).start()

    @property
    def draining(self) -> bool:
        """True once `drain` or `close` was called: nothing new is admitted."""
        return self._draining

    @property
    def busy_s(self) -> float:
        """Seconds since the batch that runs now began; 0 if none does."""
        since = self._running_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def well_s(self) -> float:
        """Seconds since a batch ended well; infinite if none did, or the last one failed."""
        if self._last_failure > self._last_success:
            return float("inf")
        return time.monotonic() - self._last_success

    @property
    def waiting(self) -> int:
        """Works in the queue."""
        return len(self._queue)

    @property
    def admitted(self) -> tuple[int, int]:
        """Requests in work, waiting and running, and the units that they asked for."""
        return self._admitted["requests"], self._admitted["units"]

    @contextmanager
    def admit(self, units: int = 1) -> Iterator[None]:
        """Hold a place, and room for `units`, for the body of the `with`.

        A request that alone is larger than all room is let in when nobody else is.

        Raises:
            Refusal: `draining` or `overloaded`, both with Retry-After.
        """
        if self._draining:
            raise shutting_down()
        asked = {"requests": 1, "units": units}
        for name, amount in asked.items():
            taken, room = self._admitted[name], self._room[name]
            if taken and taken + amount > room:
                detail = f"{taken} {name} are in work and {amount} more asked for; room for {room}"
                raise Refusal(Code.OVERLOADED, detail, retry_after_s=RETRY_AFTER_S)
        for name, amount in asked.items():
            self._admitted[name] += amount
        try:
            yield
        finally:
            for name, amount in asked.items():
                self._admitted[name] -= amount

    async def run(
        self, tasks: Sequence[DeviceTask[T]], *, deadline: Deadline, finish: bool = False
    ) -> list[Done[T]]:
        """Queue tasks and wait for all their results.

        If the caller is cancelled while all of them wait, they are dropped and never run, and the
        cancellation goes on. Once one has begun, all are finished; then the cancellation goes on,
        or with `finish` it is forgotten and the results are returned. If one fails, those that
        still wait are dropped.

        Raises:
            Refusal: `deadline_exceeded` (a running task's result is then thrown away),
                `draining` if one was dropped.
        """
        loop = asyncio.get_running_loop()
        entries = [_QueuedTask(task, loop, loop.create_future()) for task in tasks]
        if not self._queue.put(entries):
            raise _dropped()
        results = [queued.result for queued in entries]
        until = asyncio.FIRST_EXCEPTION
        try:
            await asyncio.wait(results, timeout=deadline.left_s, return_when=until)
        except asyncio.CancelledError:
            if self._queue.withdraw(entries, unless_begun=True):
                raise
            await asyncio.wait(results, return_when=until)
            if not finish:
                self._queue.withdraw(entries)
                raise
        left = self._queue.withdraw(entries)
        done = [queued.done() for queued in entries if queued.result.done()]  # raises what failed
        if len(done) < len(entries):
            for result in results:
                result.cancel()
            raise deadline.passed("in the queue" if left == len(entries) else "on the device")
        return done

    def drain(self) -> None:
        """Admit nothing more; what was admitted goes on."""
        self._draining = True

    def close(self) -> None:
        """Admit nothing more, drop what waits, let the running batch finish."""
        self._draining = True
        for queued in self._queue.close():
            queued.deliver(Completion(None, _dropped()))

    # --- the thread -----------------------------------------------------------------------------

    def _serve(self) -> None:
        self._start()
        launched: _Launched | None = None
        while (batch := self._queue.take(wait=launched is None)) is not None:
            before, launched = launched, self._launch(batch) if batch else None
            if before is not None:
                self._finish(before)
                before = None  # it holds results on the device
            if launched is not None and not self._ahead:
                self._finish(launched)
                launched = None
            self._running_since = None if launched is None else launched.batch[0].began

    def _launch(self, batch: "list[_QueuedTask]") -> "_Launched":
        began = time.monotonic()
        self._running_since = self._running_since or began
        for queued in batch:
            queued.began = began
        self._telemetry.launched([began - queued.asked for queued in batch])
        try:
            return _Launched(batch, batch[0].task.launch([queued.task.item for queued in batch]))
        except BaseException as error:  # noqa: BLE001 - its caller raises it
            _let_go(error)
            return _Launched(batch, [partial(_raise, error)] * len(batch))

    def _finish(self, launched: "_Launched") -> None:
        completions = [Completion.of(wait) for wait in launched.waits]
        took = time.monotonic() - launched.batch[0].began
        self._telemetry.finished(took)
        for queued in launched.batch:
            self._queue.charge(queued.owner, took / len(launched.batch))
        for queued, completion in zip(launched.batch, completions, strict=True):
            if completion.error is not None and len(launched.batch) > 1:
                self._finish(self._launch([queued]))  # only the one at fault is to fail
                continue
            if completion.error is None:
                self._last_success = time.monotonic()
            elif not isinstance(completion.error, Refusal):
                self._last_failure = time.monotonic()
                self._clean_up(completion.error)
            queued.deliver(completion)

    def _clean_up(self, error: BaseException) -> None:
        """Release what a failed task held; the thread lives on whatever comes of that."""
        _let_go(error)
        try:
            self._recover()
        except Exception:  # noqa: BLE001 - of whatever kind, the thread must live on
            _LOG.exception("the device could not be cleaned up after a failure")


@dataclass(eq=False)
class _QueuedTask:
    """A task in the queue or on the device."""

    task: DeviceTask[Any]
    loop: asyncio.AbstractEventLoop
    result: "asyncio.Future[Any]"
    asked: float = field(default_factory=time.monotonic)
    began: float = 0.0
    ended: float = 0.0

    @property
    def owner(self) -> str:
        return self.task.owner

    @property
    def group(self) -> Hashable | None:
        return self.task.group

    @property
    def size(self) -> int:
        return self.task.size

    def done(self) -> Done[Any]:
        waited_s, ran_s = self.began - self.asked, self.ended - self.began
        return Done(self.result.result(), waited_s, ran_s, self.ended)

    def deliver(self, completion: Completion) -> None:
        self.ended = time.monotonic()
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(completion.deliver, self.result)


class _Launched(NamedTuple):
    batch: list[_QueuedTask]
    waits: Sequence[Callable[[], Any]]


def _raise(error: BaseException) -> None:
    raise error


def _let_go(error: BaseException) -> None:
    """Forget the variables of the calls that failed: they may hold most of a device's memory.

    Without this they live as long as the error does, and it is in a cycle: until Python's collector
    comes round, which may be after many tasks that find no memory.
    """
    for one in chain(error):
        traceback.clear_frames(one.__traceback__)


def shutting_down() -> Refusal:
    """The refusal of every request after a drain began."""
    return Refusal(Code.DRAINING, "the server is shutting down", retry_after_s=RETRY_AFTER_S)


def _dropped() -> Refusal:
    return Refusal(Code.DRAINING, "the server shut down before the work began")
