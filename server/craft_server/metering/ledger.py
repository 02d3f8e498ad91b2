"""What was sold: where budgets stand, usage by time, the ledger in pages, and the audit.

Owns all reading of the ledger and the counters; meter.py writes them.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    RowMapping,
    bindparam,
    func,
    literal_column,
    select,
)

from craft_server.accounts.identity import no_such_key
from craft_server.db.store import Store, from_us, to_us
from craft_server.db.tables import COUNTERS, LIMITS, keys, ledger
from craft_server.metering.statements import AUDIT, AUDITED, HELD
from craft_shared.messages import (
    Budget,
    Budgets,
    Counters,
    UsageBucket,
    UsageEvent,
    UsageEvents,
    UsageReply,
)

Bucket = Literal["total", "hour", "day"]
Label = Literal["tag", "run", "image_set"]

_WIDTHS_US = {"hour": 3_600_000_000, "day": 86_400_000_000}

_COUNTERS: tuple[Column[int], ...] = tuple(ledger.c[name] for name in COUNTERS)

STANDS = {name: (f"{name}_limit", f"{name}_used", f"{name}_held") for name in LIMITS}
"""The columns of each limit of a key: the limit, what is used and what is held of it."""

_KEY = select(keys).where(keys.c.id == bindparam("key_id"))


class Discrepancy(NamedTuple):
    """A counter of a key that is not the sum of the rows it counts."""

    key_id: str
    counter: str
    counted: int
    summed: int


class Holds(NamedTuple):
    """How many requests are held now, and since when the oldest is, in microseconds since 1970."""

    number: int
    oldest: int | None


@dataclass(frozen=True)
class LedgerFilter:
    """Which lines of the ledger: those with `since <= at < until`, this tag and this run.

    None is no condition; "" are the lines without a tag or run. A moment without a time zone is
    in UTC.
    """

    since: datetime | None = None
    until: datetime | None = None
    tag: str | None = None
    run: str | None = None

    def conditions(self, key_id: str | None) -> list[ColumnElement[bool]]:
        """The conditions on the ledger's columns; a key's lines, or everybody's."""
        conditions: list[tuple[Any, Any, Any]] = [
            (operator.eq, ledger.c.key_id, key_id),
            (operator.ge, ledger.c.at, self.since and to_us(self.since)),
            (operator.lt, ledger.c.at, self.until and to_us(self.until)),
            (operator.eq, ledger.c.tag, self.tag),
            (operator.eq, ledger.c.run, self.run),
        ]
        return [holds(column, value) for holds, column, value in conditions if value is not None]


EVERYTHING = LedgerFilter()

LONG_READ_S = 60.0
"""Longest time of a sum over a ledger of any length."""
AUDIT_S = 600.0
"""Longest time of an audit, which reads all of it."""


class Ledger:
    """The reading side of the meter."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def budgets(self, key_id: str) -> Budgets:
        """Where the limits of a key stand; refuses an unknown key with `not_found`."""
        with self._store.read() as tx:
            return budgets_of(tx, key_id)

    def usage(
        self,
        key_id: str | None,
        where: LedgerFilter = EVERYTHING,
        *,
        bucket: Bucket = "total",
        by: Label | None = None,
    ) -> UsageReply:
        """Settled usage in sums.

        Args:
            key_id: whose; None is everybody's.
            where: what is added up.
            bucket: one sum for all of it, or one for each hour or day (UTC) that has any.
            by: a sum for each tag, run or image set (in each bucket), the largest in queries first.
        """
        starts = [] if bucket == "total" else [_start(bucket)]
        labels = [] if by is None else [ledger.c[by]]
        sums = _sums()
        query = select(*starts, *labels, *sums).where(*where.conditions(key_id))
        if groups := [*starts, *labels]:
            query = query.group_by(*groups).order_by(*starts, sums[0].desc(), *labels)
        with self._store.read(LONG_READ_S) as tx:
            rows = tx.execute(query).mappings().all()
        return UsageReply(bucket=bucket, by=by, buckets=[_bucket(row) for row in rows])

    def totals(self, where: LedgerFilter = EVERYTHING) -> dict[str, Counters]:
        """What each key has bought; keys that bought nothing are absent."""
        query = select(ledger.c.key_id, *_sums()).where(*where.conditions(None))
        with self._store.read(LONG_READ_S) as tx:
            rows = tx.execute(query.group_by(ledger.c.key_id)).all()
        return {row.key_id: Counters.model_validate(row, from_attributes=True) for row in rows}

    def events(
        self, key_id: str, where: LedgerFilter = EVERYTHING, *, after: int = 0, limit: int = 1000
    ) -> UsageEvents:
        """A page of at most `limit` lines of a key, oldest first, from the one after id `after`."""
        query = select(ledger).where(*where.conditions(key_id), ledger.c.id > after)
        with self._store.read() as tx:
            rows = tx.execute(query.order_by(ledger.c.id).limit(limit + 1)).all()
        events = [_event(row) for row in rows[:limit]]
        return UsageEvents(events=events, next=events[-1].id if len(rows) > limit else None)

    def holds(self) -> Holds:
        """The holds of all keys, by an index that has nothing else in it."""
        with self._store.read() as tx:
            return Holds(*tx.execute(HELD).one())

    def audit(self) -> list[Discrepancy]:
        """Hold each key's counters against the rows they count; [] is the only good answer.

        One statement, so that it sees one moment; it reads the whole ledger.
        """
        with self._store.read(AUDIT_S) as tx:
            rows = tx.execute(AUDIT).mappings().all()
        checks = [
            Discrepancy(row["id"], counter, row[counter], int(row[f"{counter}_rows"] or 0))
            for row in rows
            for counter in AUDITED
        ]
        return [check for check in checks if check.counted != check.summed]


def budgets_of(tx: Connection, key_id: str) -> Budgets:
    """Where the limits of a key stand, as this transaction sees it.

    Raises:
        Refusal: `not_found`.
    """
    row = tx.execute(_KEY, {"key_id": key_id}).mappings().first()
    if row is None:
        raise no_such_key(key_id)
    return budgets_in(dict(row))


def budgets_in(row: Mapping[str, Any]) -> Budgets:
    """Where the limits stand, from a row with a key's counters."""
    stands = {}
    for name, (limit_of, used_of, held_of) in STANDS.items():
        if (limit := row[limit_of]) is not None:
            used, held = row[used_of], row[held_of]
            left = limit - used - held
            stands[name] = Budget(limit=limit, used=used, held=held, remaining=left)
    return Budgets(**stands)


def _sums() -> list[ColumnElement[int]]:
    return [func.coalesce(func.sum(column), 0).label(column.name) for column in _COUNTERS]


def _start(bucket: Literal["hour", "day"]) -> ColumnElement[int]:
    width: ColumnElement[int] = literal_column(str(_WIDTHS_US[bucket]))
    return (ledger.c.at - ledger.c.at % width).label("start")


def _bucket(row: RowMapping) -> UsageBucket:
    return UsageBucket(
        start=None if "start" not in row else from_us(row["start"]),
        tag=row.get("tag"),
        run=row.get("run"),
        image_set=row.get("image_set"),
        counters=Counters.model_validate(dict(row)),
    )


def _event(row: Row[Any]) -> UsageEvent:
    stored = row._asdict()
    return UsageEvent.model_validate(
        stored | {"at": from_us(row.at), "seconds": row.milliseconds / 1000}
    )
