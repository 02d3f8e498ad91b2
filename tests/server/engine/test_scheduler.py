"""The device worker: bounded, cancellable while waiting, unharmed by a failing job."""

import asyncio
import gc
import threading
import time
import weakref

import pytest

from craft_server.engine.scheduler import DeviceWorker
from craft_server.engine.tasks import Deadline, DeviceTask
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
    (done,) = await worker.run([DeviceTask.alone(owner, job)], deadline=Deadline(deadline_s))
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


# --- several tasks, groups and running ahead ----------------------------------------------------


class Passes:
    """Launches that remember who went together; an item of None fails the whole pass."""

    def __init__(self):
        self.seen = []

    def __call__(self, items):
        self.seen.append(list(items))
        if None in items:
            raise ValueError("a poisoned item")
        return [lambda item=item: item * 10 for item in items]

    def task(self, owner, item, **fields):
        return DeviceTask(owner, self, item, **({"group": "x"} | fields))


async def piled(worker, *tasks):
    """Run tasks, each for itself, that were all waiting when the device came to them."""
    gate = Gate()
    first = asyncio.create_task(run(worker, gate, deadline_s=10, owner="first"))
    await until(gate.started)
    waiting = [asyncio.create_task(worker.run([task], deadline=Deadline(10))) for task in tasks]
    while worker.waiting < len(tasks):
        await asyncio.sleep(0.001)
    gate.open.set()
    await first
    return await asyncio.gather(*waiting, return_exceptions=True)


def test_works_of_one_group_go_together_and_each_gets_its_own_result():
    passes = Passes()
    tasks = [passes.task(owner, number) for number, owner in enumerate("abc")]
    results = asyncio.run(piled(a_worker(most_together=9), *tasks))
    assert passes.seen == [[0, 1, 2]]
    assert [done.value for (done,) in results] == [0, 10, 20]


def test_by_default_nothing_goes_together():
    passes = Passes()
    asyncio.run(piled(a_worker(), *(passes.task("a", number) for number in range(3))))
    assert passes.seen == [[0], [1], [2]]


def test_a_poisoned_work_in_a_pass_fails_alone():
    passes = Passes()
    tasks = [passes.task("a", 1), passes.task("b", None), passes.task("c", 3)]
    (one,), poisoned, (three,) = asyncio.run(piled(a_worker(most_together=9), *tasks))
    assert (one.value, three.value) == (10, 30)
    assert isinstance(poisoned, ValueError)
    assert passes.seen == [[1, None, 3], [1], [None], [3]]


def test_the_tasks_of_one_call_come_back_in_order_with_their_times():
    async def main():
        tasks = [DeviceTask.alone("ann", lambda n=number: n) for number in range(5)]
        done = await a_worker().run(tasks, deadline=Deadline(10))
        assert [one.value for one in done] == [0, 1, 2, 3, 4]
        assert all(one.waited_s >= 0 and one.ran_s >= 0 for one in done)

    asyncio.run(main())


def test_if_one_of_several_tasks_fails_those_that_wait_are_dropped():
    async def main():
        worker, running, ran = a_worker(), Gate(), []
        tasks = [DeviceTask.alone("ann", lambda: 1 / 0), DeviceTask.alone("ann", running)]
        tasks += [DeviceTask.alone("ann", lambda n=number: ran.append(n)) for number in range(3)]
        with pytest.raises(ZeroDivisionError):
            await worker.run(tasks, deadline=Deadline(10))
        assert worker.waiting == 0
        running.open.set()
        assert await run(worker, lambda: "next", deadline_s=10) == "next"
        assert ran == []

    asyncio.run(main())


@pytest.mark.parametrize("finish", [True, False])
def test_a_caller_that_leaves_once_one_of_its_tasks_runs_gets_all_only_to_finish(finish):
    async def main():
        worker, gate = a_worker(), Gate()
        tasks = [DeviceTask.alone("ann", gate), DeviceTask.alone("ann", lambda: "second")]
        running = asyncio.create_task(worker.run(tasks, deadline=Deadline(10), finish=finish))
        await until(gate.started)
        running.cancel()
        await asyncio.sleep(0.01)
        assert not running.done()
        gate.open.set()
        await asyncio.wait([running])
        assert running.cancelled() is not finish
        if finish:
            assert [one.value for one in running.result()] == ["done", "second"]

    asyncio.run(main())


def test_a_caller_that_leaves_a_task_that_fails_drops_those_that_wait():
    async def main():
        worker, gate, ran = a_worker(), Gate(), []

        def fail():
            gate()
            raise ZeroDivisionError

        tasks = [DeviceTask.alone("ann", fail)]
        tasks += [DeviceTask.alone("ann", lambda: ran.append(1)) for _ in range(200)]
        leaving = asyncio.create_task(worker.run(tasks, deadline=Deadline(10)))
        await until(gate.started)
        blocked = Gate()
        other = asyncio.create_task(run(worker, blocked, deadline_s=10, owner="bob"))
        await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.sleep(0.01)
        gate.open.set()
        await asyncio.wait([leaving])
        await until(blocked.started)
        assert leaving.cancelled()
        assert worker.waiting == 0
        blocked.open.set()
        assert await other == "done"
        assert len(ran) <= 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("ahead", "order"),
    [
        (False, ["launch 1", "wait 1", "launch 2", "wait 2"]),
        (True, ["launch 1", "launch 2", "wait 1", "wait 2"]),
    ],
)
def test_a_device_beside_the_host_gets_the_next_batch_before_the_last_is_waited_for(ahead, order):
    events = []

    def launch(items):
        events.append(f"launch {items[0]}")
        return [lambda: events.append(f"wait {items[0]}")]

    tasks = [DeviceTask("ann", launch, number) for number in (1, 2)]
    asyncio.run(piled(a_worker(ahead=ahead), *tasks))
    assert events == order


def test_units_are_bounded_but_a_large_request_alone_is_let_in():
    worker = a_worker(requests=9, units=10)
    with worker.admit(6):
        with pytest.raises(Refusal) as caught, worker.admit(5):
            pass
        assert "units" in caught.value.detail
        with worker.admit(4):
            pass
    with worker.admit(1000):
        pass


def test_a_worker_says_how_long_it_has_been_at_a_batch():
    async def main():
        worker, gate = a_worker(), Gate()
        assert worker.busy_s == 0
        running = asyncio.create_task(run(worker, gate, deadline_s=10))
        await until(gate.started)
        await asyncio.sleep(0.01)
        assert worker.busy_s > 0
        gate.open.set()
        await running
        while worker.busy_s:
            await asyncio.sleep(0.001)

    asyncio.run(main())


def test_a_failure_after_a_success_is_not_well():
    async def main():
        worker = a_worker()
        await run(worker, lambda: 1, deadline_s=10)
        assert worker.well_s < 10
        with pytest.raises(ZeroDivisionError):
            await run(worker, lambda: 1 / 0, deadline_s=10)
        assert worker.well_s == float("inf")

    asyncio.run(main())


def test_the_thread_gets_ready_before_any_work():
    threads = []

    async def main():
        worker = a_worker(start=lambda: threads.append(threading.current_thread()))
        await run(worker, lambda: threads.append(threading.current_thread()), deadline_s=10)

    asyncio.run(main())
    assert threads[0] is threads[1]
    assert threads[0] is not threading.current_thread()


# --- after a failure ----------------------------------------------------------------------------


class Tensor:
    """Stands for a large part of a device's memory."""


class Greedy:
    """Work that fails while a variable of it holds a tensor; at launch, or while waited for."""

    def __init__(self, *, late):
        self._late = late
        self.held = None

    def __call__(self, _):
        return [self.compute] if self._late else [self.compute()]

    def compute(self):
        tensor = Tensor()
        self.held = weakref.ref(tensor)
        raise MemoryError("no room")


@pytest.mark.parametrize("late", [False, True])
def test_what_a_failed_task_held_is_free_when_the_device_recovers(late):
    """Not only when Python's collector comes round: on a GPU all tasks until then may fail."""
    found = []

    async def main():
        greedy = Greedy(late=late)
        worker = a_worker(recover=lambda: found.append(greedy.held()))
        with pytest.raises(MemoryError, match="no room"):
            await worker.run([DeviceTask("ann", greedy)], deadline=Deadline(10))
        assert await run(worker, lambda: "next", deadline_s=10) == "next"

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()
    assert found == [None]


def test_an_error_in_a_ring_of_causes_does_not_stop_the_device():
    """`raise error.__cause__` makes one: each of the two is then what the other came from."""

    def job():
        fault, wrapper = ValueError("the fault itself"), RuntimeError("wrapped")
        wrapper.__cause__, fault.__context__ = fault, wrapper
        raise fault

    async def main():
        worker = a_worker()
        with pytest.raises(ValueError, match="the fault itself"):
            await run(worker, job, deadline_s=5)
        assert await run(worker, lambda: "next", deadline_s=5) == "next"

    asyncio.run(main())


def test_a_refusal_is_no_reason_to_recover_and_a_failing_recovery_harms_nobody():
    calls = []

    def recover():
        calls.append(1)
        raise RuntimeError("the device is gone")

    def refuse():
        raise Refusal(Code.INVALID_REQUEST, "no")

    async def main():
        worker = a_worker(recover=recover)
        with pytest.raises(Refusal):
            await run(worker, refuse, deadline_s=10)
        assert calls == []
        with pytest.raises(ZeroDivisionError):
            await run(worker, lambda: 1 / 0, deadline_s=10)
        assert await run(worker, lambda: "next", deadline_s=10) == "next"
        assert calls == [1]

    asyncio.run(main())


def test_a_finished_batch_is_let_go_while_the_device_has_nothing_to_do():
    held = []

    def launch(_):
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        return [lambda: str(tensor)]

    async def main():
        worker = a_worker(ahead=True)
        await worker.run([DeviceTask("ann", launch)], deadline=Deadline(10))
        until_at = time.monotonic() + 10
        while held[0]() is not None and time.monotonic() < until_at:
            await asyncio.sleep(0.001)

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()
    assert held[0]() is None
