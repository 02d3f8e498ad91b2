"""The device worker: bounded, cancellable while waiting, unharmed by a failing job."""

import asyncio
import threading
import time

import pytest

from craft_server.scheduler import DeviceWorker, Work
from craft_shared.errors import Code, Refusal


class Gate:
    """A job that runs until it is opened, and says that it started."""

    def __init__(self):
        self.started = threading.Event()
        self.open = threading.Event()
        self.runs = 0

    def __call__(self):
        self.runs += 1
        self.started.set()
        assert self.open.wait(10)
        return "done"


def a_worker(**fields):
    return DeviceWorker(**({"requests": 2, "units": 100} | fields))


async def run(worker, job, *, deadline_s, owner="ann"):
    (done,) = await worker.run([Work.alone(owner, job)], deadline_s=deadline_s)
    return done.value


async def until(event):
    await asyncio.to_thread(event.wait, 10)


def test_places_are_bounded_and_given_back():
    worker = a_worker()
    with worker.admit(), worker.admit():
        with pytest.raises(Refusal) as caught, worker.admit():
            pass
        assert caught.value.code is Code.OVERLOADED
        assert caught.value.retry_after_s
    with worker.admit():
        pass


def test_a_draining_worker_admits_nothing_and_finishes_what_it_has():
    async def main():
        worker, gate = a_worker(), Gate()
        running = asyncio.create_task(run(worker, gate, deadline_s=10))
        await until(gate.started)
        worker.drain()
        assert worker.draining
        with pytest.raises(Refusal) as caught, worker.admit():
            pass
        assert caught.value.code is Code.DRAINING
        gate.open.set()
        assert await running == "done"

    asyncio.run(main())


def test_a_job_that_waits_is_dropped_when_its_caller_is_cancelled():
    async def main():
        worker, first, second = a_worker(), Gate(), Gate()
        running = asyncio.create_task(run(worker, first, deadline_s=10))
        await until(first.started)
        waiting = asyncio.create_task(run(worker, second, deadline_s=10))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        first.open.set()
        await running
        assert await run(worker, lambda: "next", deadline_s=10) == "next"
        assert second.runs == 0

    asyncio.run(main())


def test_a_job_that_runs_is_finished_when_its_caller_is_cancelled():
    async def main():
        worker, gate = a_worker(), Gate()
        running = asyncio.create_task(run(worker, gate, deadline_s=10))
        await until(gate.started)
        running.cancel()
        await asyncio.sleep(0.01)
        assert not running.done()
        gate.open.set()
        assert await running == "done"

    asyncio.run(main())


@pytest.mark.parametrize(("busy", "where"), [(True, "in the queue"), (False, "on the device")])
def test_a_deadline_ends_the_wait_and_says_where_the_time_went(busy, where):
    async def main():
        worker, first, gate = a_worker(), Gate(), Gate()
        if busy:
            before = asyncio.create_task(run(worker, first, deadline_s=10))
            await until(first.started)
        with pytest.raises(Refusal) as caught:
            await run(worker, gate, deadline_s=0.05)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert where in caught.value.detail
        first.open.set()
        gate.open.set()
        if busy:
            await before
        assert await run(worker, lambda: 1, deadline_s=10) == 1
        assert gate.runs == (0 if busy else 1)

    asyncio.run(main())


def test_closing_drops_what_waits():
    async def main():
        worker, gate = a_worker(), Gate()
        running = asyncio.create_task(run(worker, gate, deadline_s=10))
        await until(gate.started)
        waiting = asyncio.create_task(run(worker, lambda: 1, deadline_s=10))
        await asyncio.sleep(0.01)
        worker.close()
        with pytest.raises(Refusal) as caught:
            await waiting
        assert caught.value.code is Code.DRAINING
        gate.open.set()
        assert await running == "done"

    asyncio.run(main())


def test_an_exception_is_its_own_jobs_alone():
    async def main():
        worker = a_worker()
        with pytest.raises(ZeroDivisionError):
            await run(worker, lambda: 1 / 0, deadline_s=10)
        assert worker.well_s == float("inf")
        assert await run(worker, lambda: 2, deadline_s=10) == 2
        assert worker.well_s < 10

    asyncio.run(main())


def test_jobs_run_one_at_a_time_in_order():
    async def main():
        worker, order = a_worker(), []

        def job(number):
            order.append(number)
            time.sleep(0.005)
            order.append(number)

        await asyncio.gather(
            *(run(worker, lambda n=number: job(n), deadline_s=10) for number in range(5))
        )
        assert order == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]

    asyncio.run(main())
