"""What was sold: where budgets stand, usage by time, the ledger in pages, and the audit.

Reads what meter.py writes and changes nothing. Must not know models, tokens or HTTP.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Executable,
    Row,
    RowMapping,
    bindparam,
    func,
    literal_column,
    select,
    text,
)

from craft_server.store import Store, from_us, to_us
from craft_server.tables import keys, ledger
from craft_shared.errors import Code, Refusal
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

_WIDTHS_US = {"hour": 3_600_000_000, "day": 86_400_000_000}

_COUNTERS: tuple[Column[int], ...] = tuple(ledger.c[name] for name in Counters.model_fields)

AUDIT = text("""
    SELECT id, queries_used, queries_held, logit_vectors_used, logit_vectors_held,
           (SELECT sum(queries) FROM ledger WHERE key_id = keys.id) AS queries_sold,
           (SELECT sum(logit_vectors) FROM ledger WHERE key_id = keys.id) AS logit_vectors_sold,
           (SELECT sum(queries) FROM requests
            WHERE key_id = keys.id AND state = 'held') AS queries_open,
           (SELECT sum(logit_vectors) FROM requests
            WHERE key_id = keys.id AND state = 'held') AS logit_vectors_open
    FROM keys ORDER BY id""")

_KEY = select(keys).where(keys.c.id == bindparam("key_id"))

_AUDITED = {
    "queries_used": "queries_sold",
    "queries_held": "queries_open",
    "logit_vectors_used": "logit_vectors_sold",
    "logit_vectors_held": "logit_vectors_open",
}


class Discrepancy(NamedTuple):
    """A counter of a key that is not the sum of the rows it counts."""

    key_id: str
    counter: str
    counted: int
    summed: int


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
        key_id: str,
        *,
        bucket: Bucket = "total",
        since: datetime | None = None,
        until: datetime | None = None,
        tag: str | None = None,
    ) -> UsageReply:
        """Settled usage of a key in `since <= at < until`.

        Args:
            key_id: whose.
            bucket: one sum for all of it, or one for each hour or day (UTC) that has any.
            since: moment; without a time zone it is UTC.
            until: moment, itself not included.
            tag: only calls with this tag; "" are those without one.
        """
        where = [ledger.c.key_id == key_id]
        if since is not None:
            where.append(ledger.c.at >= to_us(since))
        if until is not None:
            where.append(ledger.c.at < to_us(until))
        if tag is not None:
            where.append(ledger.c.tag == tag)
        with self._store.read() as tx:
            rows = tx.execute(_sums(bucket, where)).mappings().all()
        return UsageReply(bucket=bucket, buckets=[_bucket(row) for row in rows])

    def totals(self) -> dict[str, Counters]:
        """All that every key has bought; keys that bought nothing are absent."""
        sums = [func.sum(column).label(column.name) for column in _COUNTERS]
        with self._store.read() as tx:
            rows = tx.execute(select(ledger.c.key_id, *sums).group_by(ledger.c.key_id)).all()
        return {row.key_id: Counters.model_validate(row, from_attributes=True) for row in rows}

    def events(
        self, key_id: str, *, after: int = 0, limit: int = 1000, tag: str | None = None
    ) -> UsageEvents:
        """A page of at most `limit` lines of a key, oldest first, from the one after id `after`."""
        lines = select(ledger).where(ledger.c.key_id == key_id, ledger.c.id > after)
        if tag is not None:
            lines = lines.where(ledger.c.tag == tag)
        with self._store.read() as tx:
            rows = tx.execute(lines.order_by(ledger.c.id).limit(limit + 1)).all()
        events = [_event(row) for row in rows[:limit]]
        return UsageEvents(events=events, next=events[-1].id if len(rows) > limit else None)

    def audit(self) -> list[Discrepancy]:
        """Hold each key's counters against the rows they count; [] is the only good answer.

        One statement, so that it sees one moment; it reads the whole ledger.
        """
        with self._store.read() as tx:
            rows = tx.execute(AUDIT).mappings().all()
        checks = [
            Discrepancy(row["id"], counter, row[counter], int(row[summed] or 0))
            for row in rows
            for counter, summed in _AUDITED.items()
        ]
        return [check for check in checks if check.counted != check.summed]


def budgets_of(tx: Connection, key_id: str) -> Budgets:
    """Where the limits of a key stand, as this transaction sees it.

    Raises:
        Refusal: `not_found`.
    """
    row = tx.execute(_KEY, {"key_id": key_id}).mappings().first()
    if row is None:
        raise Refusal(Code.NOT_FOUND, f"no key has the id {key_id!r}", param="key_id")
    return budgets_in(dict(row))


def budgets_in(row: Mapping[str, Any]) -> Budgets:
    """Where the limits stand, from a row with a key's six counters."""
    queries = _budget(row["queries_limit"], row["queries_used"], row["queries_held"])
    if row["logit_vectors_limit"] is None:
        return Budgets(queries=queries)
    vectors = (row[f"logit_vectors_{name}"] for name in ("limit", "used", "held"))
    return Budgets(queries=queries, logit_vectors=_budget(*vectors))


def _budget(limit: int, used: int, held: int) -> Budget:
    return Budget(limit=limit, used=used, held=held, remaining=limit - used - held)


def _sums(bucket: Bucket, where: Sequence[ColumnElement[bool]]) -> Executable:
    """Sums of the counters; grouped by `start` unless the bucket is the total."""
    sums = [func.coalesce(func.sum(column), 0).label(column.name) for column in _COUNTERS]
    if bucket == "total":
        return select(*sums).where(*where)
    width: ColumnElement[int] = literal_column(str(_WIDTHS_US[bucket]))
    start = (ledger.c.at - ledger.c.at % width).label("start")
    return select(start, *sums).where(*where).group_by(start).order_by(start)


def _bucket(row: RowMapping) -> UsageBucket:
    start = None if "start" not in row else from_us(row["start"])
    return UsageBucket(start=start, counters=Counters.model_validate(dict(row)))


def _event(row: Row[Any]) -> UsageEvent:
    stored = row._asdict()
    return UsageEvent.model_validate(
        stored | {"at": from_us(row.at), "seconds": row.milliseconds / 1000}
    )
