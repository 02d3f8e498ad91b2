"""Payment of a priced request: reserve, then settle or release, whatever happens meanwhile.

Owns what a cancelled caller and a store that does not answer mean for a hold: none is left behind,
and none is settled by halves. Nobody cancels a step: its caller may be cancelled any number of
times (its client leaves, then a drain ends), and waits for the end and what follows from it.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from craft_server.concurrency import Workers, ended
from craft_server.db.group_commit import GroupCommit
from craft_server.db.store import StoreDown
from craft_server.logits.pricing import PricedRequest
from craft_server.metering.meter import Hold, LedgerEntry, Meter, Replay
from craft_server.observability.telemetry import Telemetry, UnitState
from craft_server.observability.tracing import Tracer
from craft_server.settings import Settings
from craft_shared.errors import Code, Refusal
from craft_shared.messages import Budgets, Counters

T = TypeVar("T")
Result = TypeVar("Result")

_RETRY_S = 1.0
"""Between two tries to give a hold back while the store does not answer."""


class Payment:
    """Takes the prices of requests from budgets.

    Args:
        settings: how long a hold lasts, and how many requests a key may have in work.
        meter: the budgets.
        group_commit: runs the meter's writes off the event loop.
        telemetry: counts every unit.
        tracer: of the purchase's steps.
        wait_for: lets a drain wait for a hold that is still to be released.
    """

    def __init__(
        self,
        settings: Settings,
        meter: Meter,
        group_commit: GroupCommit,
        *,
        telemetry: Telemetry,
        tracer: Tracer,
        wait_for: Callable[["asyncio.Future[Any]"], None],
    ) -> None:
        self._settings = settings
        self._meter = meter
        self._group_commit = group_commit
        self._telemetry = telemetry
        self._tracer = tracer
        self._wait_for = wait_for
        self._readers = Workers("budgets", threads=2, wait_s=settings.store_wait_s)

    async def reserve(self, priced: PricedRequest) -> Hold | Replay:
        """Hold a request's price; a caller cancelled meanwhile leaves no hold behind.

        Raises:
            Refusal: see `Meter.reserve`.
        """
        with self._tracer.span("reserve", queries=priced.cost.queries):
            reserving = self._group_commit.run(self._reserve_of(priced), durable=False)
            left = await _ended(reserving)
            found = self._reserved(reserving)
            if left is not None:
                if isinstance(found, Hold):
                    await self.release(priced, found)
                raise left
            return found

    async def settle(
        self, priced: PricedRequest, hold: Hold, reply: bytes, *, entry: LedgerEntry, keep: bool
    ) -> Budgets:
        """Charge a hold, also if the caller is cancelled meanwhile.

        Raises:
            Refusal: see `Meter.settle`; `not_ready`: nobody knows whether it is settled, and if it
                is not, it is released as soon as the store answers.
        """
        with self._tracer.span("settle", queries=priced.cost.queries):
            settle = partial(self._meter.settle, hold, reply, entry=entry, keep=keep)
            settling = self._group_commit.run(settle)
            return await _finished(settling, partial(self._settled, priced, hold))

    async def release(self, priced: PricedRequest, hold: Hold) -> None:
        """Release a hold: now, or as soon as the store answers."""
        releasing = self._group_commit.run(partial(self._meter.release, hold), durable=False)
        await _finished(releasing, partial(self._released_now_or_later, priced, hold))

    async def budgets(self, priced: PricedRequest, replay: Replay) -> Budgets:
        """The key's budgets when what it bought before is delivered again; counts the replay."""
        budgets = await self._readers.run(self._meter.budgets, priced.key.id)
        self._count("replayed", replay.cost)
        return budgets

    def close(self) -> None:
        """End its threads. Reads that wait for one are done first."""
        self._readers.close()

    def _reserve_of(self, priced: PricedRequest) -> Callable[[], Hold | Replay]:
        return partial(
            self._meter.reserve,
            priced.key.id,
            priced.idempotency_key,
            fingerprint=priced.fingerprint,
            cost=priced.cost,
            hold_s=self._settings.hold_s,
            version=priced.key.version,
            at_a_time=priced.key.policy.max_concurrent or self._settings.key_requests,
        )

    def _reserved(self, reserving: "asyncio.Future[Hold | Replay]") -> Hold | Replay:
        """What was reserved; one of which nobody knows whether it was made is given back later."""
        try:
            return reserving.result()
        except StoreDown:
            self._in_background(self._meter.give_back_unheard, asyncio.Future.result)
            raise

    def _settled(
        self, priced: PricedRequest, hold: Hold, settling: "asyncio.Future[Budgets]"
    ) -> Budgets:
        try:
            budgets = settling.result()
        except Refusal as refusal:
            if refusal.code is Code.NOT_READY:
                self._release_in_background(priced, hold)
            raise
        self._count("settled", priced.cost)
        return budgets

    def _released_now_or_later(
        self, priced: PricedRequest, hold: Hold, releasing: "asyncio.Future[bool]"
    ) -> None:
        try:
            self._released(priced, releasing)
        except Refusal:
            self._release_in_background(priced, hold)

    def _released(self, priced: PricedRequest, releasing: "asyncio.Future[bool]") -> None:
        if releasing.result():
            self._count("released", priced.cost)

    def _release_in_background(self, priced: PricedRequest, hold: Hold) -> None:
        """A hold that stays would make every retry wait until it expires."""
        self._in_background(lambda: self._meter.release(hold), partial(self._released, priced))

    def _in_background(
        self, write: Callable[[], T], then: Callable[["asyncio.Future[T]"], object]
    ) -> None:
        self._wait_for(asyncio.create_task(self._until_it_is_done(write, then)))

    async def _until_it_is_done(
        self, write: Callable[[], T], then: Callable[["asyncio.Future[T]"], object]
    ) -> None:
        while True:
            await asyncio.sleep(_RETRY_S)
            try:
                await _finished(self._group_commit.run(write, durable=False), then)
            except Refusal:
                continue
            return

    def _count(self, state: UnitState, cost: Counters) -> None:
        self._telemetry.units(state, cost.model_dump())


async def _finished(
    work: "asyncio.Future[T]", then: Callable[["asyncio.Future[T]"], Result]
) -> Result:
    """Wait for work, do what follows; then the caller is cancelled, if it was meanwhile.

    An error of what follows goes before.
    """
    left = await _ended(work)
    result = then(work)
    if left is not None:
        raise left
    return result


async def _ended(work: "asyncio.Future[Any]") -> asyncio.CancelledError | None:
    """Wait to the end of work, which keeps its result or error for who asks.

    Returns:
        What the caller has to raise, if it was cancelled meanwhile, any number of times.
    """
    left: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await ended(work)
        except asyncio.CancelledError as error:
            left = error
    return left
