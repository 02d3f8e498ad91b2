"""Calls of one kind have threads of their own, and wait for them for a bounded time."""

import asyncio
import contextvars
import threading

import pytest

from craft_server.concurrency import Workers
from craft_shared.errors import Code, Refusal

NAME = contextvars.ContextVar("name", default="")


class Gate:
    """A call that stays until it is opened."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.calls = 0

    def call(self):
        self.calls += 1
        self.begun.release()
        assert self.go.wait(10)
        return "done"

    async def until_begun(self):
        await asyncio.to_thread(self.begun.acquire, timeout=10)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.go.set()


@pytest.fixture
def workers():
    made = []

    def make(**options):
        made.append(Workers("kind", **{"threads": 1, "wait_s": 0.05} | options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_call_that_finds_no_thread_in_time_is_refused_and_never_made(workers, gate):
    busy = workers()

    async def main():
        first = asyncio.create_task(busy.run(gate.call))
        await gate.until_begun()
        with pytest.raises(Refusal) as refused:
            await busy.run(gate.call)
        gate.go.set()
        return refused.value, await first

    refusal, result = asyncio.run(main())
    assert (refusal.code, result, gate.calls) == (Code.NOT_READY, "done", 1)
    assert refusal.retry_after_s is not None


def test_one_kind_that_is_stuck_stops_no_other(workers, gate):
    stuck, other = workers(wait_s=10), workers()

    async def main():
        waiting = [asyncio.create_task(stuck.run(gate.call)) for _ in range(8)]
        await gate.until_begun()
        result = await other.run(lambda: "other")
        gate.go.set()
        await asyncio.gather(*waiting)
        return result

    assert asyncio.run(main()) == "other"


def test_only_so_many_wait(workers, gate):
    busy = workers(waiting=1)

    async def main():
        first = asyncio.create_task(busy.run(gate.call))
        await gate.until_begun()
        with pytest.raises(Refusal) as refused:
            await busy.run(gate.call)
        gate.go.set()
        await first
        return refused.value, await busy.run(lambda: "again")

    refusal, again = asyncio.run(main())
    assert (refusal.code, again) == (Code.OVERLOADED, "again")


def test_a_caller_that_leaves_takes_its_call_out_of_the_queue(workers, gate):
    busy = workers(wait_s=10)

    async def main():
        first = asyncio.create_task(busy.run(gate.call))
        await gate.until_begun()
        second = asyncio.create_task(busy.run(gate.call))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        gate.go.set()
        await first
        return second.cancelled()

    assert asyncio.run(main())
    assert gate.calls == 1


def test_a_call_that_has_begun_is_not_cut_by_the_wait(workers):
    slow = workers(wait_s=0.01)
    pause = threading.Event()
    assert asyncio.run(slow.run(pause.wait, 0.1)) is False


def test_what_a_call_raises_is_its_callers_and_it_runs_in_the_callers_context(workers):
    pool = workers()

    async def main():
        NAME.set("mine")
        assert await pool.run(NAME.get) == "mine"
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)

    asyncio.run(main())
