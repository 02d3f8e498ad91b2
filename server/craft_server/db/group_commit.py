"""One thread that writes to the store for everybody who waits, with one commit for all of them.

Owns when the ledger's writes happen. Must not know what they are. A commit to SQLite costs a flush
to the disk and only one writer is let in, so works that wait at the same time are done one after
the other in one transaction: each is undone alone if it raises, and nobody is told anything before
the commit. There is no artificial wait: a work that comes alone is committed alone. On a database
that takes many writers, works run side by side and commit by themselves.
"""

import asyncio
import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

from craft_server.concurrency import Outcome
from craft_server.db.store import Store
from craft_shared.errors import Refusal

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_Told = tuple[Outcome, "asyncio.Future[Any]"]

_MOST_TOGETHER = 64
"""Works in one transaction: it must end soon, since readers of a budget wait for its end."""


class Teller:
    """Runs works on the store off the event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: queue.SimpleQueue[_Work[Any] | None] = queue.SimpleQueue()
        self._pool = None if store.one_writer else ThreadPoolExecutor(thread_name_prefix="teller")
        self._thread = threading.Thread(target=self._serve, name="teller", daemon=True)
        if self._pool is None:
            self._thread.start()

    def run(self, work: Callable[[], T], *, durable: bool = True) -> "asyncio.Future[T]":
        """Do `work`, which writes by `store.write` alone; await the result for what it does.

        It is done even if the caller is cancelled meanwhile. What is not `durable` does not wait
        for the disk and may be undone by a power failure, as if it had never been asked for.

        Raises:
            Refusal: `not_ready`, also where the commit of all that were done together failed.
        """
        loop = asyncio.get_running_loop()
        if self._pool is not None:
            return loop.run_in_executor(self._pool, work)
        result: asyncio.Future[T] = loop.create_future()
        self._waiting.put(_Work(work, durable, loop, result))
        return result

    def close(self) -> None:
        """Finish what waits, then stop."""
        if self._pool is not None:
            self._pool.shutdown()
            return
        self._waiting.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (first := self._waiting.get()) is not None:
            works = [first]
            while len(works) < _MOST_TOGETHER and not self._waiting.empty():
                work = self._waiting.get()
                if work is None:
                    self._waiting.put(None)
                    break
                works.append(work)
            _tell(works, self._do(works))

    def _do(self, works: list["_Work[Any]"]) -> list[Outcome]:
        """Do works in one transaction; one that fails by a bug is not to harm the others."""
        try:
            with self._store.together(durable=any(work.durable for work in works)):
                return [Outcome.of(work.call, only=Refusal) for work in works]
        except Refusal as outage:  # nothing was committed
            return [Outcome(None, outage)] * len(works)
        except BaseException as error:  # noqa: BLE001 - nothing was committed, and all are told
            if len(works) == 1:
                return [Outcome(None, error)]
        _LOG.warning("one of %d works failed; each is done again alone", len(works))
        return [outcome for work in works for outcome in self._do([work])]


class _Work(NamedTuple, Generic[T]):
    call: Callable[[], T]
    durable: bool
    loop: asyncio.AbstractEventLoop
    result: "asyncio.Future[T]"


def _tell(works: list[_Work[Any]], outcomes: list[Outcome]) -> None:
    """Wake every loop once."""
    told: defaultdict[asyncio.AbstractEventLoop, list[_Told]] = defaultdict(list)
    for work, outcome in zip(works, outcomes, strict=True):
        told[work.loop].append((outcome, work.result))
    for loop, mine in told.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_tell_all, mine)


def _tell_all(told: list[_Told]) -> None:
    for outcome, result in told:
        outcome.tell(result)
