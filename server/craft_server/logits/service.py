"""The use case that everything else serves: one purchase of logits.

    check -> price -> admit -> reserve -> queue and score -> settle -> reply

The price is exact before any work. Nothing is charged unless the logits exist, and they do not
leave unless they are charged. Of a reply too large to be held in memory, the encoded texts exist
and are known to give finite logits; its blocks are computed while they leave. Must not know HTTP:
routes hand in messages and get messages back.
"""

import asyncio
import hashlib
import logging
import weakref
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import numpy as np

from craft_server.accounts.identity import Key
from craft_server.db.group_commit import Teller
from craft_server.engine.blackbox import BlackBox, FloatArray
from craft_server.engine.features import FeatureShelf
from craft_server.engine.scheduler import DeviceWorker, shutting_down
from craft_server.images.store import ImageStore
from craft_server.logits.payment import Till
from craft_server.logits.pricing import Order, OrderDesk, count_prompts
from craft_server.logits.scoring import Logits, Scorer, Stream, Whole, dtype_of, fits_a_block
from craft_server.metering.meter import Hold, LedgerLine, Meter, Replay
from craft_server.observability.telemetry import Standing, Telemetry
from craft_server.observability.tracing import Tracer
from craft_server.settings import Settings
from craft_shared.errors import Code, Refusal
from craft_shared.messages import Budgets, LogitsReply, LogitsRequest

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_SMALL_TEXTS = 256
"""Checking an order of so few texts takes less than handing it to another thread."""

_CANARY_FRESH_S = 10.0
_CANARY_DEADLINE_S = 60.0
_STALLED_S = 300.0
_LAST_MOMENT_S = 5.0


class Delivery:
    """What leaves: the reply's message and its logits, whole or block by block.

    Attributes:
        reply: the message.
        shape: of the logits, (P, N, K).
        dtype: of the logits, little-endian.
        logits: all of them, if the reply is small.
        seconds: where the time went.
    """

    def __init__(self, reply: LogitsReply, order: Order, scored: Whole | Stream) -> None:
        self.reply = reply
        self.shape = order.shape
        self.dtype = dtype_of(order.request)
        self.logits = scored.logits if isinstance(scored, Whole) else None
        self.seconds = scored.seconds
        self._scored = scored
        self._held = ExitStack()
        self.close = weakref.finalize(self, self._held.close)
        """Gives up what a delivery in blocks holds while it leaves: a place in the queue."""

    def hold(self, held: ExitStack) -> None:
        """Hold on to something until closed."""
        self._held.push(held)

    async def blocks(self) -> AsyncIterator[Logits]:
        """The logits in the reply's order."""
        if isinstance(self._scored, Whole):
            yield self._scored.logits
        else:
            async for block in self._scored.blocks:
                yield block


class LogitsService:
    """Sells logits: the only part of the server that uses the meter and the model together."""

    def __init__(  # noqa: PLR0913 - one parameter per part
        self,
        settings: Settings,
        blackbox: BlackBox,
        *,
        meter: Meter,
        images: ImageStore,
        teller: Teller,
        telemetry: Telemetry,
        tracer: Tracer,
    ) -> None:
        self._tracer = tracer
        self.card = blackbox.card
        self._settings = settings
        self._running: set[asyncio.Future[Any]] = set()
        self._till = Till(
            settings, meter, teller, telemetry=telemetry, tracer=tracer, wait_for=self._wait_for
        )
        self._shelf = FeatureShelf(settings, blackbox, images)
        self._worker = DeviceWorker(
            requests=settings.queue,
            units=settings.queue_texts,
            most_together=blackbox.tokens_per_pass if settings.batching == "merged" else 0,
            ahead=blackbox.asynchronous,
            start=blackbox.start,
            recover=blackbox.recover,
            telemetry=telemetry,
        )
        self._desk = OrderDesk(blackbox, images)
        self._scorer = Scorer(
            blackbox, self._shelf, self._worker, deadline_s=settings.deadline_s, tracer=tracer
        )

    async def order(
        self, key: Key, request: LogitsRequest, *, offsets: FloatArray | None, idempotency_key: str
    ) -> Order:
        """Check and price a request; a large one off the event loop. See `OrderDesk.take`."""
        take = partial(
            self._desk.take, key, request, offsets=offsets, idempotency_key=idempotency_key
        )
        texts = count_prompts(request, offsets) * len(request.class_names)
        with self._tracer.span("order", texts=texts):
            return take() if texts <= _SMALL_TEXTS else await asyncio.to_thread(take)

    async def buy(self, order: Order) -> Delivery:
        """Carry an order out, once per idempotency key, and charge it.

        If the caller is cancelled, an order that still waits for the device is dropped and
        released; one that runs is finished and settled, to be replayed to whoever asks again.

        Raises:
            Refusal: not admitted, not affordable, in progress, too slow; nothing was charged.
        """
        return await self.start(order)

    def start(self, order: Order) -> "asyncio.Task[Delivery]":
        """`buy`, begun at once; cancel the task if the caller leaves."""
        task = asyncio.create_task(self._buy(order))
        self._wait_for(task)
        return task

    async def check_ready(self) -> None:
        """Score a canary on the device, unless real work succeeded just now.

        Raises:
            Refusal: `draining` or `not_ready`.
        """
        if self._worker.draining:
            raise shutting_down()
        if (busy_s := self._worker.busy_s) > _STALLED_S:
            detail = f"the device has been at one batch for {busy_s:.0f} s"
            raise Refusal(Code.NOT_READY, detail, retry_after_s=5)
        if self._worker.well_s < _CANARY_FRESH_S:
            return
        try:
            await self._scorer.check(deadline_s=_CANARY_DEADLINE_S)
        except Exception as error:
            _LOG.exception("the canary failed")
            detail = f"a test forward failed ({type(error).__name__})"
            raise Refusal(Code.NOT_READY, detail, retry_after_s=5) from error

    def standing(self) -> Standing:
        """How it stands at this moment; from any thread."""
        requests, texts = self._worker.admitted
        return Standing(
            requests=requests,
            texts=texts,
            queue=self._worker.waiting,
            busy_s=self._worker.busy_s,
            tiers=self._shelf.tiers(),
        )

    async def drain(self, timeout_s: float) -> None:
        """Admit nothing more and wait for what is under way; what is late is released."""
        self._worker.drain()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_LAST_MOMENT_S)
        self._worker.close()
        await asyncio.to_thread(self._shelf.close)

    def _wait_for(self, work: "asyncio.Future[Any]") -> None:
        """Let a drain wait for it."""
        self._running.add(work)
        work.add_done_callback(self._running.discard)

    # --- reserve, score, settle -----------------------------------------------------------------

    async def _buy(self, order: Order) -> Delivery:
        with ExitStack() as place:
            place.enter_context(self._worker.admit(order.cost.texts))
            grant = await self._till.reserve(order)
            if isinstance(grant, Replay):
                delivery = await self._replay(order, grant)
            else:
                delivery = await self._sell(order, grant)
            if delivery.logits is None:
                left = asyncio.get_running_loop().create_future()
                self._wait_for(left)
                place.callback(_set, left)
                delivery.hold(place.pop_all())
            return delivery

    async def _sell(self, order: Order, hold: Hold) -> Delivery:
        try:
            scored = await self._score(order)
        except BaseException:
            await self._till.release(order, hold)
            raise
        line = _line(order, scored.seconds["model"])
        keep = isinstance(scored, Whole)
        budgets = await self._till.settle(order, hold, _proof(scored), line=line, keep=keep)
        return self._deliver(order, scored, budgets)

    async def _replay(self, order: Order, replay: Replay) -> Delivery:
        """What was paid for before, from the store or computed again; never charged again."""
        scored: Whole | Stream
        if replay.reply is not None:
            logits = np.frombuffer(replay.reply, dtype_of(order.request)).reshape(order.shape)
            scored = Whole(logits, {})
        else:
            scored = await self._score(order)
            if hashlib.sha256(_proof(scored)).hexdigest() != replay.reply_sha256:
                _LOG.warning("a recomputed reply differs from what was sold: request %s", replay.id)
        budgets = await self._till.budgets(order, replay)
        return self._deliver(order, scored, budgets, replayed=True)

    async def _score(self, order: Order) -> Whole | Stream:
        whole = fits_a_block(order.shape)
        return await (self._scorer.whole(order) if whole else self._scorer.stream(order))

    def _deliver(
        self, order: Order, scored: Whole | Stream, budgets: Budgets, *, replayed: bool = False
    ) -> Delivery:
        reply = LogitsReply(
            model=self.card.id,
            digest=self.card.digest,
            image_set=order.images.id,
            cost=order.cost,
            budgets=budgets,
            replayed=replayed,
        )
        return Delivery(reply, order, scored)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _proof(scored: Whole | Stream) -> bytes:
    """What is the same whenever the order is computed: all logits, or a stream's proof."""
    return (scored.logits if isinstance(scored, Whole) else scored.proof).tobytes()


def _line(order: Order, seconds: float) -> LedgerLine:
    prompts, images, classes = order.shape
    return LedgerLine(
        model=order.request.model,
        image_set=order.images.id,
        prompts=prompts,
        images=images,
        classes=classes,
        tag=order.request.tag,
        run=order.request.run,
        milliseconds=round(seconds * 1000),
    )
