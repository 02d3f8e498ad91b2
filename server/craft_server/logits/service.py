"""The use case that everything else serves: one purchase of logits.

    foresee -> read -> check and price -> foresee -> plan
            -> admit -> reserve -> queue and score -> settle -> reply

Nobody works for a key whose budget has no room: not for its body, not for its texts. The price is
exact before any work. Nothing is charged unless the logits exist, and they do not
leave unless they are charged. Of a reply too large to be held in memory, the encoded texts exist
and are known to give finite logits; its blocks are computed while they leave. Routes hand in
messages and get messages back.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import numpy as np

from craft_server.accounts.identity import Key
from craft_server.accounts.shares import Caller, ShareLimits, Shares
from craft_server.concurrency import Workers
from craft_server.db.group_commit import GroupCommit
from craft_server.engine.blackbox import BlackBox, FloatArray, Steps
from craft_server.engine.desk import Desk
from craft_server.engine.features import ImageFeatures
from craft_server.engine.scheduler import DeviceWorker, shutting_down
from craft_server.engine.tasks import Deadline
from craft_server.images.store import ImageSetRecord, ImageStore
from craft_server.logits.payment import Payment
from craft_server.logits.pricing import Order, PricedRequest, Pricing, Quote
from craft_server.logits.results import Reply, Result, WholeResult, dtype_of, proof_of
from craft_server.logits.scoring import NotFinite, Scorer, fits_a_block
from craft_server.metering.meter import Hold, LedgerEntry, Meter, Replay, fits
from craft_server.observability.telemetry import ServerStats, Telemetry
from craft_server.observability.tracing import Tracer
from craft_server.settings import Settings
from craft_shared.errors import Code, Refusal
from craft_shared.messages import (
    Budgets,
    Counters,
    LogitsReply,
    LogitsRequest,
    SoftPrompts,
    TextsReply,
    TextsRequest,
)

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_SMALL_TEXTS = 256
"""Looking so few texts up takes less than handing them to another thread."""

_LEAST = Counters(queries=1, calls=1, logit_vectors=1, texts=1, logits=1)
"""What every purchase costs at least."""

_SPOILED = b""
"""Kept instead of a reply where what was bought came to nothing by the buyer's numbers. A reply has
at least one logit, so that no other has this digest."""
_SPOILED_SHA256 = hashlib.sha256(_SPOILED).hexdigest()

_CANARY_FRESH_S = 10.0
_CANARY_DEADLINE_S = 60.0
_LAST_MOMENT_S = 5.0


class LogitsService:
    """Sells logits: the only part of the server that uses the meter and the model together."""

    def __init__(
        self,
        settings: Settings,
        blackbox: BlackBox,
        *,
        meter: Meter,
        images: ImageStore,
        group_commit: GroupCommit,
        telemetry: Telemetry,
        tracer: Tracer,
    ) -> None:
        self._tracer = tracer
        self.card = blackbox.card
        self._settings = settings
        self._meter = meter
        self._images = images
        self._desk = Desk()
        self._orders = Workers("orders", threads=2, wait_s=settings.store_wait_s)
        self._running: set[asyncio.Future[Any]] = set()
        self._payment = Payment(
            settings,
            meter,
            group_commit,
            telemetry=telemetry,
            tracer=tracer,
            wait_for=self._wait_for,
        )
        self._image_features = ImageFeatures(settings, blackbox, images)
        self._worker = DeviceWorker(
            requests=settings.queue,
            units=settings.queue_texts,
            most_together=blackbox.tokens_per_pass if settings.batching == "merged" else 0,
            ahead=blackbox.asynchronous,
            start=blackbox.start,
            recover=blackbox.recover,
            telemetry=telemetry,
        )
        self._pricing = Pricing(blackbox)
        at_a_time = ShareLimits(settings.key_replays, 2 * settings.key_replays)
        self._replays = Shares("replays computed again", at_a_time)
        self._replays_read = Shares("replays whose many texts are read", at_a_time)
        self._scorer = Scorer(
            blackbox,
            self._image_features,
            self._worker,
            deadline_s=settings.deadline_s,
            tracer=tracer,
        )

    async def foresee(
        self, key: Key, idempotency_key: str, cost: Counters = _LEAST, *, look: bool = False
    ) -> str | None:
        """Refuse a key that has no room for a price, unless it asks for what it bought before.

        What the key's row said when it was verified may let it pass, if nobody wants to `look`.
        Only the store refuses it.

        Returns:
            The fingerprint of what was bought under that name, if somebody looked.

        Raises:
            Refusal: see `Meter.foresee`.
        """
        if not look and fits(key.counted, cost):
            return None
        foresee = partial(self._meter.foresee, version=key.version)
        return await self._orders.run(foresee, key.id, idempotency_key, cost)

    async def read(self, key: Key, decode: Callable[[bytes], T], body: bytes) -> T:
        """Decode a body when it is its owner's turn, off the event loop."""
        return await self._at_desk(key, _in_one_step(decode, body))

    def count_texts(self, key: Key, request: TextsRequest) -> int:
        """Check a question about texts; how many it has, of which nothing is read.

        Raises:
            Refusal: see `Pricing.check_texts`.
        """
        return self._pricing.check_texts(key.policy, request)

    async def check_texts(self, key: Key, request: TextsRequest) -> TextsReply:
        """Tokenise checked texts when it is their owner's turn, off the event loop. Free.

        Raises:
            Refusal: see `Pricing.count_in_steps` and `Desk.run`.
        """
        with self._tracer.span("texts"):
            return await self._at_desk(key, self._pricing.count_in_steps(request))

    async def price(
        self, key: Key, request: LogitsRequest, *, offsets: FloatArray | None, idempotency_key: str
    ) -> Quote:
        """Check a request and price it: nothing of it is read but numbers.

        Raises:
            Refusal: see `Pricing` and `foresee`.
        """
        order = Order(key, idempotency_key, request, offsets)
        with self._tracer.span("order"):
            self._pricing.check(order)
            cost = self._pricing.price(order, await self._count(key.owner, request.image_set))
            look = cost.texts > _SMALL_TEXTS
            return Quote(order, cost, await self.foresee(key, idempotency_key, cost, look=look))

    async def plan(self, quote: Quote) -> PricedRequest:
        """Read what is asked for; many texts are tokenised off the event loop.

        If the caller is cancelled, what is not done is left undone.

        Raises:
            Refusal: see `Pricing.plan` and `Desk.run`; `rate_limited`: many texts of what was
                bought before are read for this key already.
        """
        key, request = quote.order.key, quote.order.request
        small = quote.cost.texts <= _SMALL_TEXTS
        with self._tracer.span("plan", texts=quote.cost.texts), ExitStack() as held:
            if not small and quote.bought is not None:
                held.enter_context(self._replays_read.lease(Caller.of(key), 1))
            steps = self._pricing.plan(quote)
            finish = _at_once(steps) if small else None
            if finish is None:
                finish = await self._at_desk(key, steps)
            return finish(await self._image_set(key.owner, request.image_set))

    async def _count(self, owner: str, identifier: str) -> int:
        known = self._images.known_set_count(owner, identifier)
        if known is not None:
            return known
        return await self._orders.run(self._images.count_set, owner, identifier)

    async def _image_set(self, owner: str, identifier: str) -> ImageSetRecord:
        known = self._images.known_set(owner, identifier)
        if known is not None:
            return known
        return await self._orders.run(self._images.find_set, owner, identifier)

    async def _at_desk(self, key: Key, steps: Steps[T]) -> T:
        if self._worker.draining:
            raise shutting_down()
        return await self._desk.run(key.owner, steps, deadline=Deadline(self._settings.deadline_s))

    async def buy(self, priced: PricedRequest) -> Reply:
        """Compute a request, once per idempotency key, and charge it.

        If the caller is cancelled, a request that still waits for the device is dropped and
        released; one whose texts are being encoded is finished and settled, and the next request
        with its idempotency key gets the reply free.

        Raises:
            Refusal: not admitted, not affordable, in progress, too slow; nothing was charged.
        """
        return await self.start(priced)

    def start(self, priced: PricedRequest) -> "asyncio.Task[Reply]":
        """`buy`, begun at once; cancel the task if the caller leaves."""
        task = asyncio.create_task(self._buy(priced))
        self._wait_for(task)
        return task

    async def check_ready(self) -> None:
        """Score a canary on the device, unless real work succeeded just now.

        Raises:
            Refusal: `draining` or `not_ready`.
        """
        if self._worker.draining:
            raise shutting_down()
        if (busy_s := self._worker.busy_s) > self._settings.device_stalled_s:
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

    @property
    def device_busy_s(self) -> float:
        """How long the device has been at the batch that runs; from any thread."""
        return self._worker.busy_s

    def stats(self) -> ServerStats:
        """Its load and caches at this moment; from any thread."""
        requests, texts = self._worker.admitted
        return ServerStats(
            requests=requests,
            texts=texts,
            queue=self._worker.waiting,
            busy_s=self._worker.busy_s,
            tiers=self._image_features.tiers(),
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
        self._desk.close()
        self._worker.close()
        await asyncio.to_thread(self._orders.close)
        await asyncio.to_thread(self._payment.close)
        await asyncio.to_thread(self._image_features.close)

    def _wait_for(self, work: "asyncio.Future[Any]") -> None:
        """Let a drain wait for it."""
        self._running.add(work)
        work.add_done_callback(self._running.discard)

    # --- reserve, score, settle -----------------------------------------------------------------

    async def _buy(self, priced: PricedRequest) -> Reply:
        with ExitStack() as place:
            place.enter_context(self._worker.admit(priced.cost.texts))
            reserved = await self._payment.reserve(priced)
            if isinstance(reserved, Replay):
                reply = await self._replay(priced, reserved)
            else:
                reply = await self._sell(priced, reserved)
            if reply.logits is None:
                self._wait_until_left(reply)
            return reply

    def _wait_until_left(self, reply: Reply) -> None:
        """Let a drain wait. A reply that leaves has no place: it holds memory (api/routes)."""
        left = asyncio.get_running_loop().create_future()
        self._wait_for(left)
        held = ExitStack()
        held.callback(_set, left)
        reply.hold(held)

    async def _sell(self, priced: PricedRequest, hold: Hold) -> Reply:
        try:
            result = await self._score(priced)
        except NotFinite as error:
            if not isinstance(priced.request.prompts, SoftPrompts):  # texts: the model's own fault
                await self._payment.release(priced, hold)
                raise
            entry = _entry(priced, error.seconds)
            await self._payment.settle(priced, hold, _SPOILED, entry=entry, keep=True)
            raise _spoiled(priced) from error
        except BaseException:
            await self._payment.release(priced, hold)
            raise
        entry = _entry(priced, result.seconds["model"])
        keep = isinstance(result, WholeResult)
        budgets = await self._payment.settle(priced, hold, proof_of(result), entry=entry, keep=keep)
        return self._reply(priced, result, budgets)

    async def _replay(self, priced: PricedRequest, replay: Replay) -> Reply:
        """What was paid for before, from the store or computed again; never charged again."""
        result: Result
        if replay.reply_sha256 == _SPOILED_SHA256:
            raise _spoiled(priced)
        if replay.reply is not None:
            logits = np.frombuffer(replay.reply, dtype_of(priced.request)).reshape(priced.shape)
            result = WholeResult(logits, {})
        else:
            with self._replays.lease(Caller.of(priced.key), 1):
                result = await self._score(priced)
            if hashlib.sha256(proof_of(result)).hexdigest() != replay.reply_sha256:
                _LOG.warning(
                    "a recomputed reply differs from what was sold: request %s",
                    replay.idempotency_key,
                )
        budgets = await self._payment.budgets(priced, replay)
        return self._reply(priced, result, budgets, replayed=True)

    async def _score(self, priced: PricedRequest) -> Result:
        whole = fits_a_block(priced.shape)
        return await (self._scorer.whole(priced) if whole else self._scorer.stream(priced))

    def _reply(
        self, priced: PricedRequest, result: Result, budgets: Budgets, *, replayed: bool = False
    ) -> Reply:
        message = LogitsReply(
            model=self.card.id,
            digest=self.card.digest,
            image_set=priced.images.id,
            cost=priced.cost,
            budgets=budgets,
            replayed=replayed,
        )
        return Reply(message, priced, result)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _in_one_step(decode: Callable[[bytes], T], body: bytes) -> Steps[T]:
    yield
    return decode(body)


def _at_once(steps: Steps[T]) -> T | None:
    """What the steps come to, if the first ends them."""
    try:
        next(steps)
    except StopIteration as known:
        result: T = known.value
        return result
    return None


def _spoiled(priced: PricedRequest) -> Refusal:
    detail = (
        f"these offsets overflow in the model: a logit is not finite. The price of "
        f"{priced.cost.queries} queries is charged, once: the work was done. Send smaller offsets"
    )
    return Refusal(Code.NON_FINITE_LOGITS, detail, param="prompts.offsets")


def _entry(priced: PricedRequest, seconds: float) -> LedgerEntry:
    prompts, images, classes = priced.shape
    return LedgerEntry(
        model=priced.request.model,
        image_set=priced.images.id,
        prompts=prompts,
        images=images,
        classes=classes,
        tag=priced.request.tag,
        run=priced.request.run,
        milliseconds=round(seconds * 1000),
    )
