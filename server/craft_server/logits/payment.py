"""Payment of a priced request: reserve, then settle or release, whatever happens meanwhile.

Owns what a cancelled caller and a store that does not answer mean for a hold: none is left behind,
and none is settled by halves.
"""

import asyncio
from collections.abc import Awaitable, Callable
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
        with self._tracer.span("reserve", queries=priced.cost.queries):
            reserving = self._group_commit.run(reserve, durable=False)
            try:
                return await self._heard_of(asyncio.shield(reserving))
            except asyncio.CancelledError:
                found = await self._heard_of(reserving)
                if isinstance(found, Hold):
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
        settle = partial(self._meter.settle, hold, reply, entry=entry, keep=keep)
        try:
            with self._tracer.span("settle", queries=priced.cost.queries):
                budgets = await _finished(self._group_commit.run(settle))
        except Refusal as refusal:
            if refusal.code is Code.NOT_READY:
                self._release_in_background(priced, hold)
            raise
        self._count("settled", priced.cost)
        return budgets

    async def release(self, priced: PricedRequest, hold: Hold) -> None:
        """Release a hold: now, or as soon as the store answers."""
        try:
            await self._release(priced, hold)
        except Refusal:
            self._release_in_background(priced, hold)

    async def budgets(self, priced: PricedRequest, replay: Replay) -> Budgets:
        """The key's budgets when what it bought before is delivered again; counts the replay."""
        budgets = await self._readers.run(self._meter.budgets, priced.key.id)
        self._count("replayed", replay.cost)
        return budgets

    async def _heard_of(self, reserving: "asyncio.Future[Hold | Replay]") -> Hold | Replay:
        """A reservation; one of which nobody knows whether it was made is given back later."""
        try:
            return await reserving
        except StoreDown:
            self._in_background(self._give_back_unheard)
            raise

    def _release_in_background(self, priced: PricedRequest, hold: Hold) -> None:
        """A hold that stays would make every retry wait until it expires."""
        self._in_background(partial(self._release, priced, hold))

    def _in_background(self, act: Callable[[], Awaitable[None]]) -> None:
        self._wait_for(asyncio.create_task(_until_it_is_done(act)))

    async def _give_back_unheard(self) -> None:
        await _finished(self._group_commit.run(self._meter.give_back_unheard, durable=False))

    async def _release(self, priced: PricedRequest, hold: Hold) -> None:
        release = partial(self._meter.release, hold)
        if await _finished(self._group_commit.run(release, durable=False)):
            self._count("released", priced.cost)

    def _count(self, state: UnitState, cost: Counters) -> None:
        self._telemetry.units(state, queries=cost.queries, logit_vectors=cost.logit_vectors)


async def _until_it_is_done(act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(_RETRY_S)
        try:
            return await act()
        except Refusal:
            continue


async def _finished(write: "asyncio.Future[T]") -> T:
    """Wait to the end even if the caller is cancelled meanwhile."""
    try:
        return await asyncio.shield(write)
    except asyncio.CancelledError:
        await write
        raise
