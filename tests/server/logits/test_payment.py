"""Payment while its caller is cancelled more than once: its client leaves, then a drain ends."""

import asyncio
import contextlib
import threading
from types import SimpleNamespace

import pytest

from craft_server.db import group_commit
from craft_server.db.group_commit import GroupCommit
from craft_server.logits.payment import Payment
from craft_server.metering.meter import Hold
from craft_shared.messages import Counters

COST = Counters(queries=2, calls=1, logit_vectors=4, texts=4, logits=8)
PRICED = SimpleNamespace(
    key=SimpleNamespace(id="k", version=1, policy=SimpleNamespace(max_concurrent=None)),
    idempotency_key="one",
    fingerprint="f",
    cost=COST,
)
HOLD = Hold("k", "one", 1)


class Till:
    """A meter of one hold, which notes what is done with it."""

    def __init__(self):
        self.done = []

    def reserve(self, *_, **__):
        self.done.append("reserved")
        return HOLD

    def settle(self, *_, **__):
        self.done.append("settled")
        return "budgets"

    def release(self, hold):
        assert hold is HOLD
        self.done.append("released")
        return True

    def budgets(self, _):
        return threading.current_thread()


class Counter:
    """Telemetry that notes the states of units."""

    def __init__(self):
        self.states = []

    def units(self, state, _):
        self.states.append(state)


class Desk:
    """A payment whose writes wait until they are let go, one writer or many."""

    def __init__(self, *, one_writer):
        store = SimpleNamespace(
            one_writer=one_writer, together=self.together, keeping_connections=self.together
        )
        self.till, self.counter, self.go = Till(), Counter(), threading.Event()
        self.group = GroupCommit(store)
        self.payment = Payment(
            SimpleNamespace(hold_s=60, key_requests=8, store_wait_s=5),
            self.till,
            self.group,
            telemetry=self.counter,
            tracer=SimpleNamespace(span=lambda *_, **__: contextlib.nullcontext()),
            wait_for=lambda _: None,
        )

    @staticmethod
    def together(**_):
        return contextlib.nullcontext()

    def close(self):
        self.go.set()
        self.group.close()
        self.payment.close()

    async def cancelled_often(self, step):
        """Make a step whose caller is cancelled until it ends, first while its write is queued."""
        busy = self.group.run(lambda: self.go.wait(10))
        stepping = asyncio.create_task(step)
        await asyncio.sleep(0.01)
        for _ in range(3):
            stepping.cancel()
            await asyncio.sleep(0.01)
        self.go.set()
        async with asyncio.timeout(30):
            while not stepping.done():
                stepping.cancel()
                await asyncio.sleep(0)
        assert stepping.cancelled()
        await busy


@pytest.fixture(params=[True, False], ids=["one writer", "many writers"])
def desk(request, monkeypatch):
    monkeypatch.setattr(group_commit, "_WRITERS", 1)
    desk = Desk(one_writer=request.param)
    yield desk
    desk.close()


def test_a_reservation_leaves_no_hold_however_often_its_caller_is_cancelled(desk):
    async def main():
        await desk.cancelled_often(desk.payment.reserve(PRICED))
        assert (desk.till.done, desk.counter.states) == (["reserved", "released"], ["released"])

    asyncio.run(main())


def test_a_settlement_is_made_and_counted_however_often_its_caller_is_cancelled(desk):
    async def main():
        await desk.cancelled_often(desk.payment.settle(PRICED, HOLD, b"", entry=None, keep=True))
        assert (desk.till.done, desk.counter.states) == (["settled"], ["settled"])

    asyncio.run(main())


def test_a_release_is_made_and_counted_however_often_its_caller_is_cancelled(desk):
    async def main():
        await desk.cancelled_often(desk.payment.release(PRICED, HOLD))
        assert (desk.till.done, desk.counter.states) == (["released"], ["released"])

    asyncio.run(main())


def test_threads_that_read_budgets_end_with_the_payment(desk):
    replay = SimpleNamespace(cost=COST)
    thread = asyncio.run(desk.payment.budgets(PRICED, replay))
    assert thread.is_alive()
    desk.payment.close()
    assert not thread.is_alive()
