"""The audit trail: who did what to which key, written in the transaction that did it.

Owns the table `admin_acts`, to which lines are added and of which none is ever changed. Must not
know tokens, HTTP or why somebody acts.
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


class Deed(NamedTuple):
    """An act: what was done to which key, and what that changed; none of it may be a token."""

    act: Literal["create", "change", "rotate", "revoke"]
    key_id: str
    now: Mapping[str, Any]
    was: Mapping[str, Any] = MappingProxyType({})


def record(tx: Connection, deed: Deed, *, at: int, actor: str) -> None:
    """Add a line to the transaction that acts."""
    changes = {name: [_text(deed.was.get(name)), _text(deed.now[name])] for name in deed.now}
    line = {
        "at": at,
        "actor": actor[:MAX_ACTOR_CHARS],
        "act": deed.act,
        "key_id": deed.key_id,
        "details": json.dumps(changes),
    }
    tx.execute(insert(admin_acts).values(line))


def read(store: Store, *, key_id: str | None = None, after: int = 0, limit: int = 1000) -> Acts:
    """A page of at most `limit` lines, oldest first, from the one after id `after`.

    Args:
        store: where they are.
        key_id: only what was done to this key.
        after: `next` of the page before.
        limit: lines in a page.
    """
    lines = select(admin_acts).where(admin_acts.c.id > after)
    if key_id is not None:
        lines = lines.where(admin_acts.c.key_id == key_id)
    with store.read() as tx:
        rows = tx.execute(lines.order_by(admin_acts.c.id).limit(limit + 1)).all()
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
