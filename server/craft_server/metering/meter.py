"""Budgets: reserve before the work, settle before the first byte of the reply.

Owns all that is written to `requests`, `ledger` and the columns `used` and `held` of `keys`:
tables.py has the tables, ledger.py reads them. The price is an exact integer known before any work,
nothing is counted in memory, and every change is one transaction:

    reserve   OPEN, HOLD, IN_WORK        not opened: replay, 409 or 422; no room: 402 or 429
    settle    SETTLE, CHARGE, RECORD     if the hold expired meanwhile, MOVE and HOLD come first
    release   MOVE, RETURN_HELD          expire and recover do the same to each stale hold

A request is a key and an Idempotency-Key. It is `held` while being worked on, then `settled` for
good, or `released` or `expired`, from where a retry with the same fingerprint may hold it again as
its next attempt. Only the attempt that holds a request can settle or release it. An expired hold
was given back: settling it takes the room again, and delivers nothing if the room has gone.

statements.py has the SQL. SQLite lets one writer in at a time.
Postgres (READ COMMITTED) waits for a row, then checks the WHERE again on what the row has become;
a transaction locks at most one request and then one key, so none can wait in a circle.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, TextClause, select

from craft_server.accounts.identity import ANY_VERSION, invalid_key, is_live, no_such_key
from craft_server.db.store import Clock, Store, StoreDown, wall_clock
from craft_server.db.tables import LIMITS, requests
from craft_server.metering.ledger import STANDS, Ledger, budgets_in, budgets_of
from craft_server.metering.statements import (
    CHARGE,
    FORESEE,
    FORGET,
    HOLD,
    HOLDERS,
    IN_WORK,
    KEY,
    MOVE,
    OPEN,
    ORPHANED,
    RECORD,
    RETURN_HELD,
    SETTLE,
    STALE,
    UNHEARD,
    WAIT_FOR,
    taken,
)
from craft_server.observability.telemetry import Telemetry
from craft_shared.errors import Code, Refusal
from craft_shared.messages import Budget, Budgets, Counters

RETRY_AFTER_S = 1
"""When a client may ask again while its request is in flight."""

DAY_S = 24 * 60 * 60
_SECOND_US = 1_000_000
_FUTURE_US = 60 * _SECOND_US
"""A hold made this far in the future is stale as well: the clock was set back since."""


@dataclass(frozen=True)
class Hold:
    """A reserved request; `attempt` counts how often it was reserved."""

    key_id: str
    idempotency_key: str
    attempt: int


@dataclass(frozen=True)
class Replay:
    """A request that was bought before: asking again is free, `cost` says what it did cost.

    `reply` is None where it was too large or is too old to be stored: compute it again and compare
    its SHA-256, in hex, with `reply_sha256`.
    """

    idempotency_key: str
    reply: bytes | None
    reply_sha256: str
    cost: Counters


@dataclass(frozen=True)
class LedgerEntry:
    """What the ledger says of a settled request beside its cost."""

    model: str
    image_set: str
    prompts: int
    images: int
    classes: int
    tag: str = ""
    run: str = ""
    milliseconds: int = 0


class Meter(Ledger):
    """A ledger that sells work against budgets; thread-safe, and safe with other processes."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock = wall_clock,
        holder: str = "",
        reply_bytes: int = 2**20,
        reply_kept_s: float = DAY_S,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Meter on a store; replies of up to `reply_bytes` are stored for `reply_kept_s`.

        `holder` names the process whose holds these are (db/holders.py), by default none.
        `telemetry` counts what expired; callers count what is settled or released, once it is
        committed.
        """
        super().__init__(store)
        self._clock = clock
        self.holder = holder
        self._unheard: deque[dict[str, Any]] = deque()
        self._reply_bytes = reply_bytes
        self._telemetry = telemetry or Telemetry()
        self._reply_kept_us = round(reply_kept_s * _SECOND_US)

    def reserve(
        self,
        key_id: str,
        idempotency_key: str,
        *,
        fingerprint: str,
        cost: Counters,
        hold_s: float,
        version: int = ANY_VERSION,
        at_a_time: int | None = None,
    ) -> Hold | Replay:
        """Hold the price of a request, or find that it was paid before.

        Args:
            key_id: who pays.
            idempotency_key: the Idempotency-Key.
            fingerprint: digest of all that decides the reply; a retry has the same.
            cost: the price.
            hold_s: seconds until the hold is given back if nobody settles or releases it.
            version: of the key when it was verified; a key that changed since buys nothing.
            at_a_time: most requests that the key may hold, this one included.

        Raises:
            Refusal: `invalid_key` if the key was changed since it was verified, or expired;
                `request_in_progress`, `idempotency_key_reused`, `rate_limited`, or
                `budget_exhausted` and `budget_held`, whose `param` is the limit in the way.
        """
        values = {"key_id": key_id, "idempotency_key": idempotency_key, "fingerprint": fingerprint}
        values |= cost.model_dump() | {"holder": self.holder, "version": version}
        with self._heard_of(values) as (tx, now):
            expires_at = now + round(hold_s * _SECOND_US)
            opened = OPEN.first(tx, values | {"now": now, "expires_at": expires_at})
            if opened is None:
                _check_key(tx, key_id, now, version)
                return _replay(_request(tx, key_id, idempotency_key), fingerprint, cost)
            if HOLD.first(tx, taken(values) | {"now": now}) is None:
                _check_key(tx, key_id, now, version)
                raise _no_room(budgets_of(tx, key_id), cost)
            _check_in_work(tx, key_id, at_a_time)
            return Hold(key_id, idempotency_key, opened["attempt"])

    def foresee(
        self, key_id: str, idempotency_key: str, cost: Counters, *, version: int = ANY_VERSION
    ) -> str | None:
        """Would `reserve` find a price too high? Nothing is held; only `reserve` is exact.

        Returns:
            The fingerprint of a request that was bought, or is being worked on, under that name:
            asking for it again costs nothing. None where there is room for a new one.

        Raises:
            Refusal: `budget_exhausted`, `budget_held`, `invalid_key` or `not_found`, as `reserve`.
        """
        with self._store.read() as tx:
            found = FORESEE.first(tx, {"key_id": key_id, "idempotency_key": idempotency_key})
        if found is None:
            raise no_such_key(key_id)
        fingerprint: str | None = found["fingerprint"]
        if fingerprint is None and not fits(found, cost):
            _check_unchanged(found, self._clock(), version)
            raise _no_room(budgets_in(found), cost)
        return fingerprint

    def settle(self, hold: Hold, reply: bytes, *, entry: LedgerEntry, keep: bool = True) -> Budgets:
        """Charge a held request; only then may its reply leave the server.

        What is settled already is not charged again: it is paid for, deliver it.

        Args:
            hold: what `reserve` gave.
            reply: what of the reply is the same whenever it is computed (not the budgets).
            entry: what to write into the ledger.
            keep: store `reply` for replays if it is small, not only its digest.

        Raises:
            Refusal: `deadline_exceeded`, nothing is charged and nothing may be delivered: the hold
                was released, or it expired and a retry holds the request or the room has gone.
        """
        kept = reply if keep and len(reply) <= self._reply_bytes else None
        digest = hashlib.sha256(reply).hexdigest()
        with self._store.write() as tx:
            now = self._clock()
            values = vars(hold) | {"now": now, "reply": kept, "reply_sha256": digest}
            cost = SETTLE.first(tx, values)
            if cost is None and _revive(tx, hold, now):
                cost = SETTLE.first(tx, values)
            if cost is not None:
                RECORD.first(tx, values | vars(entry) | cost)
                stands = CHARGE.first(tx, {"key_id": hold.key_id, **taken(cost)})
                return budgets_of(tx, hold.key_id) if stands is None else budgets_in(stands)
            if _request(tx, hold.key_id, hold.idempotency_key).state != "settled":
                raise _too_late()
            return budgets_of(tx, hold.key_id)

    def release(self, hold: Hold) -> bool:
        """Give a hold back uncharged; False, and nothing is done, if it is no longer held."""
        with self._store.write() as tx:
            return _release(tx, hold, "released") is not None

    def expire(self) -> int:
        """Give back stale holds and drop old replies: at start, then regularly.

        Returns:
            How many holds were given back.
        """
        now = self._clock()
        count = self._sweep(STALE, {"now": now, "future": now + _FUTURE_US})
        with self._store.write() as tx:
            tx.execute(FORGET, {"before": now - self._reply_kept_us})
        return count

    def recover(self, holder: str) -> int:
        """Give back what a holder held when it died: only if no live process has that name.

        Returns:
            How many holds were given back.
        """
        return self._sweep(ORPHANED, {"holder": holder})

    def holders(self) -> list[str]:
        """The names of all who hold something."""
        with self._store.read() as tx:
            return list(tx.scalars(HOLDERS))

    def give_back_unheard(self) -> int:
        """Give back holds whose commit was cut off, where it went through nevertheless.

        Returns:
            How many holds were given back.

        Raises:
            Refusal: `not_ready`, the store still does not answer; call again.
        """
        count = 0
        for lost in self._unheard.copy():
            with self._store.write() as tx:
                tx.execute(WAIT_FOR, {"key_id": lost["key_id"]})
            count += self._sweep(UNHEARD, lost, "released")
            with suppress(ValueError):  # somebody else did the same meanwhile
                self._unheard.remove(lost)
        return count

    @contextmanager
    def _heard_of(self, values: dict[str, Any]) -> Iterator[tuple[Connection, int]]:
        """A transaction and its time; if nobody knows what came of it, that is noted.

        With the holder's name of that time: a process may take another during an outage.
        """
        now = None
        try:
            with self._store.write() as tx:
                now = self._clock()
                yield tx, now
        except StoreDown:
            if now is not None:
                names = "key_id", "idempotency_key", "holder"
                self._unheard.append({name: values[name] for name in names} | {"held_at": now})
            raise

    def _sweep(
        self,
        which: TextClause,
        values: dict[str, Any],
        state: Literal["released", "expired"] = "expired",
    ) -> int:
        with self._store.read() as tx:
            found = tx.execute(which, values).all()
        count = 0
        for row in found:
            with self._store.write() as tx:
                cost = _release(tx, Hold(*row), state)
            if cost is not None:
                count += 1
                self._telemetry.units(state, cost)
        return count


def fits(counted: Mapping[str, Any], cost: Counters) -> bool:
    """Is there room for a price in every limit of a key, as its row counts them?"""
    for name, (limit_of, used_of, held_of) in STANDS.items():
        limit = counted[limit_of]
        if limit is not None and counted[used_of] + counted[held_of] + getattr(cost, name) > limit:
            return False
    return True


def check_same(idempotency_key: str, bought: str, fingerprint: str) -> None:
    """Refuse a request whose fingerprint is not the one of what was bought under its name."""
    if bought != fingerprint:
        name = f"Idempotency-Key {idempotency_key!r}"
        detail = f"{name} belongs to another request; every request needs its own"
        raise Refusal(Code.IDEMPOTENCY_KEY_REUSED, detail, param="Idempotency-Key")


def _check_key(tx: Connection, key_id: str, now: int, version: int) -> None:
    if (key := KEY.first(tx, {"key_id": key_id})) is not None:
        _check_unchanged(key, now, version)


def _check_unchanged(key: Mapping[str, Any], now: int, version: int) -> None:
    live = is_live(now, revoked_at=key["revoked_at"], expires_at=key["expires_at"])
    if not live or version not in {ANY_VERSION, key["version"]}:
        raise invalid_key()


def _check_in_work(tx: Connection, key_id: str, allowed: int | None) -> None:
    """Exact: HOLD has locked the key's row, so that its requests are counted one after another."""
    if allowed is None:
        return
    held = IN_WORK.first(tx, {"key_id": key_id})
    if held is not None and held["requests"] > allowed:
        detail = f"{allowed} requests of this key are in work, which is all that it may have"
        raise Refusal(Code.RATE_LIMITED, detail, param="concurrency", retry_after_s=RETRY_AFTER_S)


def _revive(tx: Connection, hold: Hold, now: int) -> bool:
    """Take an expired hold again, unless a retry did, or there is no more room."""
    cost = MOVE.first(tx, vars(hold) | {"was": "expired", "state": "held"})
    if cost is None:
        return False
    held = {"key_id": hold.key_id, "now": now, "version": ANY_VERSION, **taken(cost)}
    if HOLD.first(tx, held) is None:
        raise _too_late()
    return True


def _release(
    tx: Connection, hold: Hold, state: Literal["released", "expired"]
) -> dict[str, int] | None:
    """What was given back; None if it was no longer held."""
    cost = MOVE.first(tx, vars(hold) | {"was": "held", "state": state})
    if cost is not None:
        RETURN_HELD.first(tx, {"key_id": hold.key_id, **taken(cost)})
    return cost


def _request(tx: Connection, key_id: str, idempotency_key: str) -> Row[Any]:
    where = requests.c.key_id == key_id, requests.c.idempotency_key == idempotency_key
    return tx.execute(select(requests).where(*where)).one()


def _replay(found: Row[Any], fingerprint: str, wanted: Counters) -> Replay:
    """What was sold before, if that is what stands in the way of opening the request.

    A reply that is computed again says as much as the key is told now. Where that is more than was
    paid for, it is not given: a key that was told labels and is now told logits buys anew. A row of
    a release that did not count logits has 0 of them.
    """
    name, param = f"Idempotency-Key {found.idempotency_key!r}", "Idempotency-Key"
    check_same(found.idempotency_key, found.fingerprint, fingerprint)
    if found.state != "settled":
        detail = f"the request with {name} is still being worked on"
        raise Refusal(Code.REQUEST_IN_PROGRESS, detail, param=param, retry_after_s=RETRY_AFTER_S)
    cost = Counters.model_validate(found, from_attributes=True)
    if found.reply is None and 0 < cost.logits < wanted.logits:
        detail = (
            f"the request with {name} was bought when this key was told less: {cost.logits} "
            f"logits, now {wanted.logits}; buy it again with another Idempotency-Key"
        )
        raise Refusal(Code.IDEMPOTENCY_KEY_REUSED, detail, param=param)
    return Replay(found.idempotency_key, found.reply, found.reply_sha256, cost)


def _no_room(budgets: Budgets, cost: Counters) -> Refusal:
    """Why a price does not fit: for good (402), or until what is in flight settles (429)."""
    limits = {
        name: (budget, getattr(cost, name))
        for name in LIMITS
        if (budget := getattr(budgets, name)) is not None
    }
    for name, (budget, needed) in limits.items():
        if needed > budget.limit - budget.used:
            return Refusal(Code.BUDGET_EXHAUSTED, _figures(name, budget, needed), param=name)
    tight = (name for name, (budget, needed) in limits.items() if needed > budget.remaining)
    name = next(tight, "queries")  # on Postgres, room may have come since HOLD found none
    detail = _figures(name, *limits[name])
    return Refusal(Code.BUDGET_HELD, detail, param=name, retry_after_s=RETRY_AFTER_S)


def _figures(name: str, budget: Budget, needed: int) -> str:
    return (
        f"needs {needed} {name}, {budget.remaining} remain: "
        f"limit {budget.limit}, used {budget.used}, held {budget.held}"
    )


def _too_late() -> Refusal:
    detail = "the hold on the budget was given back before the work was done; nothing is charged"
    return Refusal(Code.DEADLINE_EXCEEDED, detail, retry_after_s=RETRY_AFTER_S)
