"""Where an order is paid: reserve, settle or give back, through the teller, whatever happens.

Owns what a cancelled caller and a store that does not answer mean for a hold: none is left behind,
and none is settled by halves. Must not know models, queues or HTTP.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from craft_server.db.group_commit import Teller
from craft_server.logits.pricing import Order
from craft_server.metering.meter import Hold, LedgerLine, Meter, Replay
from craft_server.observability.telemetry import Telemetry, UnitState
from craft_server.observability.tracing import Tracer
from craft_server.settings import Settings
from craft_shared.errors import Code, Refusal
from craft_shared.messages import Budgets, Counters

T = TypeVar("T")

_AGAIN_S = 1.0
"""Between two tries to give back a hold while the store does not answer."""


class Till:
    """Takes orders' prices from budgets.

    Args:
        settings: how long a hold lasts, and how many requests a key may have in work.
        meter: the budgets.
        teller: runs the meter's work off the event loop.
        telemetry: told of every unit.
        tracer: of the purchase's steps.
        wait_for: lets a drain wait for a hold that is still to be given back.
    """

    def __init__(
        self,
        settings: Settings,
        meter: Meter,
        teller: Teller,
        *,
        telemetry: Telemetry,
        tracer: Tracer,
        wait_for: Callable[["asyncio.Future[Any]"], None],
    ) -> None:
        self._settings = settings
        self._meter = meter
        self._teller = teller
        self._telemetry = telemetry
        self._tracer = tracer
        self._wait_for = wait_for

    async def reserve(self, order: Order) -> Hold | Replay:
        """Hold an order's price; a caller cancelled meanwhile leaves no hold behind.

        Raises:
            Refusal: see `Meter.reserve`.
        """
        reserve = partial(
            self._meter.reserve,
            order.key.id,
            order.idempotency_key,
            fingerprint=order.fingerprint,
            cost=order.cost,
            hold_s=self._settings.hold_s,
            version=order.key.version,
            at_a_time=order.key.policy.max_concurrent or self._settings.key_requests,
        )
        with self._tracer.span("reserve", queries=order.cost.queries):
            reserving = self._teller.run(reserve, durable=False)
            try:
                return await asyncio.shield(reserving)
            except asyncio.CancelledError:
                grant = await reserving
                if isinstance(grant, Hold):
                    await self.release(order, grant)
                raise

    async def settle(
        self, order: Order, hold: Hold, reply: bytes, *, line: LedgerLine, keep: bool
    ) -> Budgets:
        """Charge a hold, also if the caller is cancelled meanwhile.

        Raises:
            Refusal: see `Meter.settle`; `not_ready`: nobody knows whether it is settled, and if it
                is not, it is given back as soon as the store answers.
        """
        settle = partial(self._meter.settle, hold, reply, line=line, keep=keep)
        try:
            with self._tracer.span("settle", queries=order.cost.queries):
                budgets = await _finish(self._teller.run(settle))
        except Refusal as refusal:
            if refusal.code is Code.NOT_READY:
                self._owe(order, hold)
            raise
        self._tell("settled", order.cost)
        return budgets

    async def release(self, order: Order, hold: Hold) -> None:
        """Give a hold back: now, or as soon as the store answers."""
        try:
            await self._release(order, hold)
        except Refusal:
            self._owe(order, hold)

    async def budgets(self, order: Order, replay: Replay) -> Budgets:
        """Where the key stands when what it bought before is delivered again."""
        budgets = await asyncio.to_thread(self._meter.budgets, order.key.id)
        self._tell("replayed", replay.cost)
        return budgets

    def _owe(self, order: Order, hold: Hold) -> None:
        """A hold that stays would make every retry wait until it expires."""
        self._wait_for(asyncio.create_task(self._release_later(order, hold)))

    async def _release_later(self, order: Order, hold: Hold) -> None:
        while True:
            await asyncio.sleep(_AGAIN_S)
            try:
                return await self._release(order, hold)
            except Refusal:
                continue

    async def _release(self, order: Order, hold: Hold) -> None:
        release = partial(self._meter.release, hold)
        if await _finish(self._teller.run(release, durable=False)):
            self._tell("released", order.cost)

    def _tell(self, state: UnitState, cost: Counters) -> None:
        self._telemetry.units(state, queries=cost.queries, logit_vectors=cost.logit_vectors)


async def _finish(work: "asyncio.Future[T]") -> T:
    """Wait to the end even if the caller is cancelled meanwhile."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await work
        raise
