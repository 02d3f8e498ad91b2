"""Payment of a priced request: reserve, then settle or release, whatever happens meanwhile.

Owns what a cancelled caller and a store that does not answer mean for a hold: none is left behind,
and none is settled by halves. Each step is a task of its own, which nobody cancels. Its caller may
be cancelled any number of times (its client leaves, then a drain ends) and waits for it to the end.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from craft_server.concurrency import Workers
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
            reserving = asyncio.create_task(self._reserve(priced))
            try:
                return await _finished(reserving)
            except asyncio.CancelledError:
                if not reserving.cancelled() and isinstance(found := reserving.result(), Hold):
                    await self.release(priced, found)
                raise

    async def settle(
        self, priced: PricedRequest, hold: Hold, reply: bytes, *, entry: LedgerEntry, keep: bool
    ) -> Budgets:
        """Charge a hold, also if the caller is cancelled meanwhile.

        Raises:
            Refusal: see `Meter.settle`; `not_ready`: nobody knows whether it is settled, and if it
                is not, it is released as soon as the store answers.
        """
        with self._tracer.span("settle", queries=priced.cost.queries):
            return await _to_its_end(self._settle(priced, hold, reply, entry=entry, keep=keep))

    async def release(self, priced: PricedRequest, hold: Hold) -> None:
        """Release a hold: now, or as soon as the store answers."""
        await _to_its_end(self._release_now_or_later(priced, hold))

    async def budgets(self, priced: PricedRequest, replay: Replay) -> Budgets:
        """The key's budgets when what it bought before is delivered again; counts the replay."""
        budgets = await self._readers.run(self._meter.budgets, priced.key.id)
        self._count("replayed", replay.cost)
        return budgets

    def close(self) -> None:
        """End its threads. Reads that wait for one are done first."""
        self._readers.close()

    async def _reserve(self, priced: PricedRequest) -> Hold | Replay:
        """A reservation; one of which nobody knows whether it was made is given back later."""
        reserve = partial(
            self._meter.reserve,
            priced.key.id,
            priced.idempotency_key,
            fingerprint=priced.fingerprint,
            cost=priced.cost,
            hold_s=self._settings.hold_s,
            version=priced.key.version,
            at_a_time=priced.key.policy.max_concurrent or self._settings.key_requests,
        )
        try:
            return await self._group_commit.run(reserve, durable=False)
        except StoreDown:
            self._in_background(self._give_back_unheard)
            raise

    async def _settle(
        self, priced: PricedRequest, hold: Hold, reply: bytes, *, entry: LedgerEntry, keep: bool
    ) -> Budgets:
        settle = partial(self._meter.settle, hold, reply, entry=entry, keep=keep)
        try:
            budgets = await self._group_commit.run(settle)
        except Refusal as refusal:
            if refusal.code is Code.NOT_READY:
                self._release_in_background(priced, hold)
            raise
        self._count("settled", priced.cost)
        return budgets

    async def _release_now_or_later(self, priced: PricedRequest, hold: Hold) -> None:
        try:
            await self._release(priced, hold)
        except Refusal:
            self._release_in_background(priced, hold)

    def _release_in_background(self, priced: PricedRequest, hold: Hold) -> None:
        """A hold that stays would make every retry wait until it expires."""
        self._in_background(partial(self._release, priced, hold))

    def _in_background(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._wait_for(asyncio.create_task(_until_it_is_done(act)))

    async def _give_back_unheard(self) -> None:
        await self._group_commit.run(self._meter.give_back_unheard, durable=False)

    async def _release(self, priced: PricedRequest, hold: Hold) -> None:
        release = partial(self._meter.release, hold)
        if await self._group_commit.run(release, durable=False):
            self._count("released", priced.cost)

    def _count(self, state: UnitState, cost: Counters) -> None:
        self._telemetry.units(state, queries=cost.queries, logit_vectors=cost.logit_vectors)


async def _until_it_is_done(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        await asyncio.sleep(_RETRY_S)
        try:
            return await _to_its_end(act())
        except Refusal:
            continue


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Work in a task that is not cancelled with its caller."""
    return await _finished(asyncio.create_task(work))


async def _finished(work: "asyncio.Future[T]") -> T:
    """Wait to the end, however often the caller is cancelled meanwhile; then it is cancelled.

    An error of the work goes before.
    """
    left: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            left = error
    result = work.result()
    if left is not None:
        raise left
    return result
