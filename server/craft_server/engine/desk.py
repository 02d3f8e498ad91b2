"""Work on requests before they are admitted: bodies read, texts tokenised, one step at a time.

Owns the thread of such work and whose turn it is. Owners take turns of some milliseconds, so that
one with much to read delays another's next request by one turn. What a caller leaves behind is
dropped at the end of its step. One thread: Python runs one at a time whatever there are.
"""

import asyncio
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from craft_server.concurrency import Completion
from craft_server.engine.blackbox import Steps
from craft_server.engine.fair_queue import FairQueue
from craft_server.engine.scheduler import shutting_down
from craft_server.engine.tasks import Deadline

T = TypeVar("T")

_TURN_S = 0.005
"""How long a turn is: what a switch between Python's threads takes anyway."""


class Desk:
    """Does work in steps on a thread of its own, owners in turn."""

    def __init__(self) -> None:
        self._queue: FairQueue[_Work] = FairQueue(most_together=0)
        threading.Thread(target=self._serve, name="desk", daemon=True).start()

    async def run(self, owner: str, steps: Steps[T], *, deadline: Deadline) -> T:
        """Do all steps and give what they return.

        If the caller is cancelled, nothing more is done after the step that is being done.

        Raises:
            Refusal: `deadline_exceeded`, `draining`; or what a step raises.
        """
        loop = asyncio.get_running_loop()
        work = _Work(owner, steps, loop, loop.create_future())
        if not self._queue.put([work]):
            raise shutting_down()
        try:
            await asyncio.wait([work.result], timeout=deadline.left_s)
        finally:
            work.left = work.result.cancel()  # False if it is done
            self._queue.withdraw([work])
        if work.left:
            raise deadline.passed("before the request was read")
        value: T = work.result.result()
        return value

    def close(self) -> None:
        """Take nothing more and drop what waits."""
        for work in self._queue.close():
            work.deliver(Completion(None, shutting_down()))

    def _serve(self) -> None:
        while batch := self._queue.take(wait=True):
            (work,) = batch
            completion = work.turn()
            if completion is not None:
                work.deliver(completion)
            elif not work.left and not self._queue.put(batch):
                work.deliver(Completion(None, shutting_down()))
            del batch, work, completion  # they hold bodies


@dataclass(eq=False)
class _Work:
    """Steps that wait or are being done, and who waits for them."""

    owner: str
    steps: Steps[Any]
    loop: asyncio.AbstractEventLoop
    result: "asyncio.Future[Any]"
    left: bool = False
    group: Hashable | None = None
    size: int = 1

    def turn(self) -> Completion | None:
        """Do steps for the time of a turn; None if there are more."""
        end = time.monotonic() + _TURN_S
        try:
            while not self.left:
                next(self.steps)
                if time.monotonic() >= end:
                    return None
        except StopIteration as done:
            return Completion(done.value, None)
        except BaseException as error:  # noqa: BLE001 - its caller raises it
            return Completion(None, error)
        return None

    def deliver(self, completion: Completion) -> None:
        """Tell the caller, unless its loop is gone."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(completion.deliver, self.result)
