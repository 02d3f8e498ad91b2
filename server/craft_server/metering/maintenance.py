"""What goes on beside requests: sweeps of the store, audits of the ledger, a look at the loop.

Owns when they happen.
"""

import asyncio
import logging
import time

from craft_server import runtime
from craft_server.db.store import StoreDown, wall_clock
from craft_server.metering.meter import Meter
from craft_server.observability.telemetry import Telemetry

_LOG = logging.getLogger(__name__)
_LOOK_S = 0.5


async def sweep(meter: Meter, telemetry: Telemetry, *, every_s: float, audit_s: float) -> None:
    """Give back stale holds and freed memory every `every_s`; audit every `audit_s`, 0 is never.

    Each round is on one thread, so that an audit, which reads the whole ledger, delays no more
    than the next sweep.
    """
    audit_at = time.monotonic() if audit_s else float("inf")
    while True:
        now = time.monotonic()
        await asyncio.to_thread(sweep_once, meter, telemetry, audit=now >= audit_at)
        if now >= audit_at:
            audit_at = now + audit_s
        await asyncio.sleep(every_s)


async def watch_loop(telemetry: Telemetry) -> None:
    """Measure how late the event loop comes: twice a second, for good."""
    while True:
        asked = time.monotonic()
        await asyncio.sleep(_LOOK_S)
        telemetry.loop_lag(max(0.0, time.monotonic() - asked - _LOOK_S))


def log_expired(holds: int) -> None:
    """Log how many holds expired."""
    if holds:
        _LOG.warning("%d holds of requests that never ended were given back", holds)


def sweep_once(meter: Meter, telemetry: Telemetry, *, audit: bool) -> None:
    """One round of `sweep`; whatever fails is logged, and the next round goes on.

    Without sweeps, holds of requests that never ended would stay.
    """
    runtime.trim_memory()
    try:
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
