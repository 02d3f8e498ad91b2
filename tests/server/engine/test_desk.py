"""Work before admission: owners take turns, and what is left behind is dropped."""

import asyncio
import threading
import time

import pytest

from craft_server.engine.desk import Desk
from craft_server.engine.tasks import Deadline
from craft_shared.errors import Code, Refusal


@pytest.fixture
def desk():
    desk = Desk()
    yield desk
    desk.close()


def steps(count, *, seconds=0.0, value=None, log=None):
    """Steps of some seconds; each leaves `value` in the log."""
    for _ in range(count):
        yield
        time.sleep(seconds)
        if log is not None:
            log.append(value)
    return value


def run(desk, owner, work, *, seconds=10):
    return desk.run(owner, work, deadline=Deadline(seconds))


def refusal_of(work):
    with pytest.raises(Refusal) as caught:
        asyncio.run(work)
    return caught.value


def test_all_steps_are_done_on_the_desks_thread(desk):
    def where():
        yield
        return threading.current_thread().name

    assert asyncio.run(run(desk, "ann", where())) == "desk"


def test_an_owner_with_much_work_delays_another_by_a_turn(desk):
    log = []

    async def main():
        many = [run(desk, "ann", steps(20, seconds=0.01, value="a", log=log)) for _ in range(5)]
        working = [asyncio.create_task(each) for each in many]
        while not log:
            await asyncio.sleep(0.001)
        await run(desk, "ben", steps(2, seconds=0.01, value="b", log=log))
        done = len(log)
        await asyncio.gather(*working)
        return done

    assert asyncio.run(main()) < 20
    assert (log.count("a"), log.count("b")) == (100, 2)


def test_what_a_caller_leaves_is_dropped_after_its_step(desk):
    log = []

    async def main():
        leaving = asyncio.create_task(run(desk, "ann", steps(1000, seconds=0.01, value=1, log=log)))
        while not log:
            await asyncio.sleep(0.001)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        done = len(log)
        await run(desk, "ben", steps(1))
        await asyncio.sleep(0.05)
        assert len(log) <= done + 1

    asyncio.run(main())


def test_what_waits_and_is_left_is_never_begun(desk):
    log = []

    async def main():
        first = asyncio.create_task(run(desk, "ann", steps(5, seconds=0.02)))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(run(desk, "ann", steps(1, value=1, log=log)))
        await asyncio.sleep(0)
        second.cancel()
        await first
        await run(desk, "ann", steps(1))

    asyncio.run(main())
    assert log == []


def test_a_step_that_fails_fails_its_caller_alone(desk):
    def failing():
        yield
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run(desk, "ann", failing()))
    assert asyncio.run(run(desk, "ann", steps(1, value=3))) == 3


def test_a_deadline_ends_the_work(desk):
    refusal = refusal_of(run(desk, "ann", steps(1000, seconds=0.01), seconds=0.05))
    assert refusal.code is Code.DEADLINE_EXCEEDED


def test_a_closed_desk_takes_nothing(desk):
    desk.close()
    assert refusal_of(run(desk, "ann", steps(1))).code is Code.DRAINING
