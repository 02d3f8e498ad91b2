"""The audit log: who did what to which key, written in the transaction that did it.

Owns the table `admin_acts`, which is only added to; migrations are frozen, so it keeps its name.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, insert, select

from craft_server.db.store import Store, from_us
from craft_server.db.tables import admin_acts
from craft_shared.admin import Act, Acts, FieldChange

MAX_ACTOR_CHARS = 160


class AuditRecord(NamedTuple):
    """What was done to which key, and what that changed; none of it may be a token."""

    act: Literal["create", "change", "rotate", "revoke"]
    key_id: str
    now: Mapping[str, Any]
    was: Mapping[str, Any] = MappingProxyType({})


def write(tx: Connection, record: AuditRecord, *, at: int, actor: str) -> None:
    """Add a record in the transaction that makes the change."""
    changes = {name: [_text(record.was.get(name)), _text(record.now[name])] for name in record.now}
    row = {
        "at": at,
        "actor": actor[:MAX_ACTOR_CHARS],
        "act": record.act,
        "key_id": record.key_id,
        "details": json.dumps(changes),
    }
    tx.execute(insert(admin_acts).values(row))


def read(store: Store, *, key_id: str | None = None, after: int = 0, limit: int = 1000) -> Acts:
    """A page of at most `limit` records, oldest first, from the one after id `after`.

    Args:
        store: where they are.
        key_id: only what was done to this key.
        after: `next` of the page before.
        limit: records in a page.
    """
    found = select(admin_acts).where(admin_acts.c.id > after)
    if key_id is not None:
        found = found.where(admin_acts.c.key_id == key_id)
    with store.read() as tx:
        rows = tx.execute(found.order_by(admin_acts.c.id).limit(limit + 1)).all()
    acts = [
        Act(
            id=row.id,
            at=from_us(row.at),
            actor=row.actor,
            act=row.act,
            key_id=row.key_id,
            changes=[
                FieldChange(field=field, was=was, now=now)
                for field, (was, now) in json.loads(row.details).items()
            ],
        )
        for row in rows[:limit]
    ]
    return Acts(acts=acts, next=acts[-1].id if len(rows) > limit else None)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
