"""What goes on beside requests: sweeps of the store, audits of the ledger, looks at loop and store.

Owns when they happen.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from craft_server import runtime
from craft_server.db.holders import Holder
from craft_server.db.store import Store, StoreDown, wall_clock
from craft_server.metering.meter import Meter
from craft_server.observability.probes import Health
from craft_server.observability.telemetry import Telemetry
from craft_shared.errors import Refusal

_LOG = logging.getLogger(__name__)
_LOOK_S = 0.5
_ASK_STORE_S = 1.0
_STORE_ANSWERS_S = 2.0
_ASK_DEVICE_S = 5.0


async def sweep(
    meter: Meter,
    telemetry: Telemetry,
    *,
    every_s: float,
    audit_s: float,
    holder: Holder | None = None,
) -> None:
    """Give back stale holds and freed memory every `every_s`; audit every `audit_s`, 0 is never.

    Each round is on one thread of its own, so that an audit, which reads the whole ledger, delays
    no more than the next sweep. With each round `holder` sees to it that its name is still its own.
    """
    thread, loop = ThreadPoolExecutor(1, thread_name_prefix="sweeps"), asyncio.get_running_loop()
    audit_at = time.monotonic() if audit_s else float("inf")
    while True:
        now = time.monotonic()
        once = partial(sweep_once, meter, telemetry, audit=now >= audit_at, holder=holder)
        await loop.run_in_executor(thread, once)
        if now >= audit_at:
            audit_at = now + audit_s
        await asyncio.sleep(every_s)


def recover(meter: Meter, holder: Holder) -> None:
    """Name the holds to come, and give back what the dead left under this name, or any other.

    Once, before the first request, and only by a process that will serve: its port is bound.
    """
    meter.holder = holder.name
    names = [holder.name] if holder.recurs else []
    names += holder.dead(meter.holders())
    log_expired(sum(meter.recover(name) for name in names))
    holder.tidy()


@contextmanager
def watching_store(store: Store, health: Health) -> Iterator[None]:
    """Ask the store every second whether it answers, on a thread and a connection of its own."""
    session, ended = store.session(_STORE_ANSWERS_S), threading.Event()

    def watch() -> None:
        while True:
            try:
                if session.answers():
                    health.store_answered()
            except Exception:  # noqa: BLE001 - whatever it is, the store did not answer
                _LOG.exception("the store could not be asked whether it answers")
            if ended.wait(_ASK_STORE_S):
                return

    thread = threading.Thread(target=watch, name="store-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_STORE_ANSWERS_S)
        session.close()


async def watch_device(check: Callable[[], Awaitable[None]], health: Health) -> None:
    """See every few seconds whether the device is ready, for good."""
    while True:
        try:
            await check()
            health.device_is(None)
        except Refusal as refusal:
            health.device_is(refusal.detail)
        await asyncio.sleep(_ASK_DEVICE_S)


async def watch_loop(telemetry: Telemetry, health: Health | None = None) -> None:
    """Measure how late the event loop comes: twice a second, for good."""
    while True:
        if health is not None:
            health.loop_came()
        asked = time.monotonic()
        await asyncio.sleep(_LOOK_S)
        telemetry.loop_lag(max(0.0, time.monotonic() - asked - _LOOK_S))


def log_expired(holds: int) -> None:
    """Log how many holds expired."""
    if holds:
        _LOG.warning("%d holds of requests that never ended were given back", holds)


def sweep_once(
    meter: Meter, telemetry: Telemetry, *, audit: bool, holder: Holder | None = None
) -> None:
    """One round of `sweep`; whatever fails is logged, and the next round goes on.

    Without sweeps, holds of requests that never ended would stay.
    """
    runtime.trim_memory()
    try:
        if holder is not None and not holder.keep():
            meter.holder = holder.name
        log_expired(meter.expire())
        holds, oldest = meter.holds()
        age_us = 0 if oldest is None else wall_clock() - oldest
        telemetry.held(holds, max(0, age_us) / 1_000_000)
        if audit:
            _audit(meter, telemetry)
    except StoreDown as outage:
        telemetry.outage()
        _LOG.warning("sweep failed, trying again: %s", outage)
    except Exception:  # noqa: BLE001 - of whatever kind, the next round must come
        _LOG.exception("sweep failed, trying again")


def _audit(meter: Meter, telemetry: Telemetry) -> None:
    faults = meter.audit()
    telemetry.audited(len(faults))
    for fault in faults:
        _LOG.error(
            "the ledger does not add up: %s counts %d %s, its rows say %d",
            fault.key_id,
            fault.counted,
            fault.counter,
            fault.summed,
        )
