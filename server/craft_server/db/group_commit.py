"""Group commit: one thread writes to the store for all callers that wait, and commits once for all.

Owns when the ledger's writes happen. A commit to SQLite costs a flush to the disk and only one
writer is let in, so writes that wait at the same time are done one after the other in one
transaction. Each is undone alone if it raises, and no caller gets a result before the commit. There
is no artificial wait: a write that comes alone is committed alone. On a database that takes many
writers, writes run side by side and commit by themselves.
"""

import asyncio
import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from craft_server.concurrency import Completion, Workers
from craft_server.db.store import BUSY_TIMEOUT_S, Store
from craft_shared.errors import Refusal

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_Delivery = tuple[Completion, "asyncio.Future[Any]"]

_MAX_GROUP = 64
"""Writes in one transaction: it must end soon, since readers of a budget wait for its end."""

_WRITERS = 8
"""Writes side by side, on a database that takes many."""


class GroupCommit:
    """Runs writes on the store off the event loop."""

    def __init__(self, store: Store, *, wait_s: float = BUSY_TIMEOUT_S) -> None:
        """Write to a store; on one with many writers, a write waits `wait_s` for its thread."""
        self._store = store
        self._waiting: queue.SimpleQueue[_Write[Any] | None] = queue.SimpleQueue()
        self._workers = (
            None
            if store.one_writer
            else Workers("ledger", threads=_WRITERS, wait_s=wait_s, waiting=None)
        )
        self._thread = threading.Thread(target=self._serve, name="group-commit", daemon=True)
        if self._workers is None:
            self._thread.start()

    def run(self, write: Callable[[], T], *, durable: bool = True) -> "asyncio.Future[T]":
        """Do `write`, which writes by `store.write` alone; await the result for what it does.

        It is done even if the caller is cancelled meanwhile. What is not `durable` does not wait
        for the disk and may be undone by a power failure, as if it had never been asked for.

        Raises:
            Refusal: `not_ready`, also where the commit of all that were done together failed.
        """
        loop = asyncio.get_running_loop()
        if self._workers is not None:
            return loop.create_task(self._workers.run(write))
        result: asyncio.Future[T] = loop.create_future()
        self._waiting.put(_Write(write, durable, loop, result))
        return result

    def close(self) -> None:
        """Finish what waits, then stop."""
        if self._workers is not None:
            self._workers.close()
            return
        self._waiting.put(None)
        self._thread.join()

    def _serve(self) -> None:
        with self._store.keeping_connections():
            self._write_until_closed()

    def _write_until_closed(self) -> None:
        while (first := self._waiting.get()) is not None:
            writes = [first]
            while len(writes) < _MAX_GROUP and not self._waiting.empty():
                write = self._waiting.get()
                if write is None:
                    self._waiting.put(None)
                    break
                writes.append(write)
            _deliver(writes, self._do(writes))

    def _do(self, writes: list["_Write[Any]"]) -> list[Completion]:
        """Do writes in one transaction; one that fails by a bug is not to harm the others."""
        try:
            with self._store.together(durable=any(write.durable for write in writes)):
                return [Completion.of(write.call, only=Refusal) for write in writes]
        except Refusal as outage:  # nothing was committed
            return [Completion(None, outage)] * len(writes)
        except BaseException as error:  # noqa: BLE001 - nothing was committed, and every caller gets it
            if len(writes) == 1:
                return [Completion(None, error)]
        _LOG.warning("one of %d writes failed; each is done again alone", len(writes))
        return [completion for write in writes for completion in self._do([write])]


class _Write(NamedTuple, Generic[T]):
    call: Callable[[], T]
    durable: bool
    loop: asyncio.AbstractEventLoop
    result: "asyncio.Future[T]"


def _deliver(writes: list[_Write[Any]], completions: list[Completion]) -> None:
    """Wake every loop once."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[_Delivery]] = defaultdict(list)
    for write, completion in zip(writes, completions, strict=True):
        by_loop[write.loop].append((completion, write.result))
    for loop, deliveries in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_deliver_all, deliveries)


def _deliver_all(deliveries: list[_Delivery]) -> None:
    for completion, result in deliveries:
        completion.deliver(result)
