"""The use case that everything else serves: one purchase of logits.

    check -> price -> admit -> reserve -> queue and score -> settle -> reply

The price is exact before any work. Nothing is charged unless the logits exist, and they do not
leave unless they are charged. Must not know HTTP: routes hand in messages and get messages back.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from craft_server.blackbox import BlackBox, FloatArray
from craft_server.features import FeatureShelf
from craft_server.image_store import ImageStore
from craft_server.keys import Key
from craft_server.meter import Hold, LedgerLine, Meter, Replay
from craft_server.orders import Order, OrderDesk
from craft_server.scheduler import DeviceWorker
from craft_server.settings import Settings
from craft_shared.errors import Code, Refusal
from craft_shared.messages import Budgets, LogitsReply, LogitsRequest, TextPrompts

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_CANARY_FRESH_S = 10.0
_CANARY_DEADLINE_S = 60.0
_LAST_MOMENT_S = 5.0
_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


@dataclass(frozen=True)
class Delivery:
    """What leaves: the reply's message, the logits (P, N, K), and where the time went."""

    reply: LogitsReply
    logits: NDArray[np.floating]
    seconds: dict[str, float] = field(default_factory=dict)


class LogitsService:
    """Sells logits: the only part of the server that uses the meter and the model together."""

    def __init__(
        self,
        settings: Settings,
        blackbox: BlackBox,
        *,
        meter: Meter,
        images: ImageStore,
        worker: DeviceWorker,
    ) -> None:
        self.card = blackbox.card
        self._settings = settings
        self._blackbox = blackbox
        self._meter = meter
        self._worker = worker
        self._desk = OrderDesk(blackbox, images)
        self._shelf = FeatureShelf(settings, blackbox, images)
        self._running: set[asyncio.Task[Any]] = set()

    async def order(
        self, key: Key, request: LogitsRequest, *, offsets: FloatArray | None, idempotency_key: str
    ) -> Order:
        """Check and price a request off the event loop; see `OrderDesk.take`."""
        return await asyncio.to_thread(
            self._desk.take, key, request, offsets=offsets, idempotency_key=idempotency_key
        )

    async def buy(self, order: Order) -> Delivery:
        """Carry an order out, once per idempotency key, and charge it.

        If the caller is cancelled, an order that still waits for the device is dropped and
        released; one that runs is finished and settled, to be replayed to whoever asks again.

        Raises:
            Refusal: not admitted, not affordable, in progress, too slow; nothing was charged.
        """
        task = asyncio.create_task(self._buy(order))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await task

    async def check_ready(self) -> None:
        """Score a canary on the device, unless real work succeeded just now.

        Raises:
            Refusal: `draining` or `not_ready`.
        """
        if self._worker.draining:
            raise Refusal(Code.DRAINING, "the server is shutting down", retry_after_s=2)
        if self._worker.idle_s < _CANARY_FRESH_S:
            return
        try:
            await self._worker.run(self._canary, deadline_s=_CANARY_DEADLINE_S)
        except Exception as error:
            _LOG.exception("the canary failed")
            detail = f"a test forward failed ({type(error).__name__})"
            raise Refusal(Code.NOT_READY, detail, retry_after_s=5) from error

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
        self._shelf.close()

    # --- reserve, score, settle -----------------------------------------------------------------

    async def _buy(self, order: Order) -> Delivery:
        with self._worker.admit():
            grant = await self._grant(order)
            if isinstance(grant, Replay):
                return await self._replay(order, grant)
            try:
                logits, seconds = await self._score(order)
            except BaseException:
                await _finish(asyncio.to_thread(self._meter.release, grant))
                raise
            budgets = await _finish(self._settle(order, grant, logits, seconds["model"]))
            return self._deliver(order, logits, budgets, seconds=seconds)

    async def _grant(self, order: Order) -> Hold | Replay:
        """Reserve; a caller cancelled meanwhile leaves no hold behind."""
        reserving = asyncio.ensure_future(asyncio.to_thread(self._reserve, order))
        try:
            return await asyncio.shield(reserving)
        except asyncio.CancelledError:
            grant = await reserving
            if isinstance(grant, Hold):
                await _finish(asyncio.to_thread(self._meter.release, grant))
            raise

    def _reserve(self, order: Order) -> Hold | Replay:
        return self._meter.reserve(
            order.key.id,
            order.idempotency_key,
            fingerprint=order.fingerprint,
            cost=order.cost,
            hold_s=self._settings.hold_s,
        )

    async def _settle(
        self, order: Order, hold: Hold, logits: NDArray[np.floating], seconds: float
    ) -> Budgets:
        prompts, images, classes = order.shape
        line = LedgerLine(
            model=order.request.model,
            image_set=order.images.id,
            prompts=prompts,
            images=images,
            classes=classes,
            tag=order.request.tag,
            milliseconds=round(seconds * 1000),
        )
        return await asyncio.to_thread(self._meter.settle, hold, reply=logits.tobytes(), line=line)

    async def _replay(self, order: Order, replay: Replay) -> Delivery:
        """What was paid for before, from the store or computed again; never charged again."""
        dtype = _DTYPES[order.request.dtype]
        if replay.reply is not None:
            logits = np.frombuffer(replay.reply, dtype).reshape(order.shape)
        else:
            logits, _ = await self._score(order)
            if hashlib.sha256(logits.tobytes()).hexdigest() != replay.reply_sha256:
                _LOG.warning("a recomputed reply differs from what was sold: request %s", replay.id)
        budgets = await asyncio.to_thread(self._meter.budgets, order.key.id)
        return self._deliver(order, logits, budgets, replayed=True)

    def _deliver(
        self,
        order: Order,
        logits: NDArray[np.floating],
        budgets: Budgets,
        *,
        replayed: bool = False,
        seconds: dict[str, float] | None = None,
    ) -> Delivery:
        reply = LogitsReply(
            model=self.card.id,
            digest=self.card.digest,
            image_set=order.images.id,
            cost=order.cost,
            budgets=budgets,
            replayed=replayed,
        )
        return Delivery(reply=reply, logits=logits, seconds=seconds or {})

    async def _score(self, order: Order) -> tuple[NDArray[np.floating], dict[str, float]]:
        """Logits in the dtype asked for, little-endian; seconds spent in queue and model."""
        asked, spent = time.monotonic(), 0.0

        async def run(job: Callable[[], T], *, units: int) -> T:
            del units

            def timed() -> T:
                nonlocal spent
                started = time.monotonic()
                try:
                    return job()
                finally:
                    spent += time.monotonic() - started

            left_s = self._settings.deadline_s - (time.monotonic() - asked)
            return await self._worker.run(timed, deadline_s=max(left_s, 0.0))

        features = await self._shelf.of(order.images, run)
        result = await run(lambda: self._blackbox.score(order.prompts, features), units=0)
        waited = time.monotonic() - asked - spent
        if result.shape != order.shape:
            raise RuntimeError(f"the model gave logits {result.shape}, expected {order.shape}")
        if not np.isfinite(result).all():
            raise RuntimeError("the model gave a logit that is not finite")
        logits = result.astype(_DTYPES[order.request.dtype], copy=False)
        return logits, {"queue": waited, "model": spent}

    def _canary(self) -> None:
        request = LogitsRequest(
            model=self.card.id,
            image_set="set_" + "0" * 32,
            class_names=["canary"],
            prompts=TextPrompts(templates=["a photo of a {}."]),
        )
        side = self.card.image_size
        pixels = self._blackbox.preprocess(Image.new("RGB", (side, side)))
        features = self._blackbox.load_features(self._blackbox.encode_images([pixels]))
        logits = self._blackbox.score(self._blackbox.prepare(request, None), features)
        if logits.shape != (1, 1, 1) or not np.isfinite(logits).all():
            raise RuntimeError(f"the canary gave {logits!r}")


async def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end even if the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
