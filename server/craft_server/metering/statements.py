"""The SQL of the meter: each statement names every counter by looping over the lists of tables.py.

So a new counter is a column there and a field of a message, and nothing here. The statements are
valid on SQLite >= 3.35 and on Postgres.
"""
# ruff: noqa: S608 - the names put into SQL are those lists; values are always parameters

from typing import Any

from sqlalchemy import text

from craft_server.db.store import Statement
from craft_server.db.tables import COUNTERS, LIMITS


def taken(price: dict[str, Any]) -> dict[str, Any]:
    """What the price in a row took of the key's limits: all of it, or no texts.

    A release before 0003 knows no limits on texts and logits. While one sells beside this one, its
    rows say how many texts they had, but no logits, and it took neither from the key.
    """
    return price if price["logits"] else {**price, "texts": 0}


def _each(form: str, *, join: str = ", ", names: tuple[str, ...] = LIMITS) -> str:
    """SQL for each limit, or each of `names`, which stands in place of `{0}`."""
    return join.join(form.format(name) for name in names)


_FITS = "({0}_limit IS NULL OR {0}_used + {0}_held + :{0} <= {0}_limit)"
_STANDS = "{0}_limit, {0}_used, {0}_held"
_COUNTED = ", ".join(COUNTERS)
_PRICED = _each(":{0}", names=COUNTERS)


OPEN = Statement(f"""
    INSERT INTO requests (key_id, idem_key, fingerprint, state, attempt, holder,
                          held_at, expires_at, {_COUNTED})
    VALUES (:key_id, :idempotency_key, :fingerprint, 'held', 1, :holder,
            :now, :expires_at, {_PRICED})
    ON CONFLICT (key_id, idem_key) DO UPDATE
    SET state = 'held', attempt = requests.attempt + 1, holder = excluded.holder,
        held_at = excluded.held_at, expires_at = excluded.expires_at,
        {_each("{0} = excluded.{0}", names=COUNTERS)}
    WHERE requests.state IN ('released', 'expired')
      AND requests.fingerprint = excluded.fingerprint
    RETURNING attempt""")

HOLD = Statement(f"""
    UPDATE keys SET {_each("{0}_held = {0}_held + :{0}")}
    WHERE id = :key_id
      AND revoked_at IS NULL AND (expires_at IS NULL OR :now < expires_at)
      AND (:version < 0 OR version = :version)
      AND {_each(_FITS, join=" AND ")}
    RETURNING id""")

KEY = Statement("SELECT version, revoked_at, expires_at FROM keys WHERE id = :key_id")

FORESEE = Statement(f"""
    SELECT version, revoked_at, keys.expires_at, {_each(_STANDS)}, fingerprint
    FROM keys LEFT JOIN requests
      ON key_id = id AND idem_key = :idempotency_key AND state IN ('held', 'settled')
    WHERE id = :key_id""")
"""A key, and the fingerprint of the request that it bought, or is buying, under a name."""

IN_WORK = Statement("""
    SELECT count(*) AS requests FROM requests WHERE key_id = :key_id AND state = 'held'""")

SETTLE = Statement(f"""
    UPDATE requests
    SET state = 'settled', settled_at = :now, reply_sha256 = :reply_sha256, reply = :reply
    WHERE key_id = :key_id AND idem_key = :idempotency_key AND attempt = :attempt AND state = 'held'
    RETURNING {_COUNTED}""")

CHARGE = Statement(f"""
    UPDATE keys SET {_each("{0}_held = {0}_held - :{0}, {0}_used = {0}_used + :{0}")}
    WHERE id = :key_id
    RETURNING {_each(_STANDS)}""")

RECORD = Statement(f"""
    INSERT INTO ledger (at, key_id, request_id, model, image_set, prompts, images, classes,
                        {_COUNTED}, tag, run, milliseconds)
    VALUES (:now, :key_id, :idempotency_key, :model, :image_set, :prompts, :images, :classes,
            {_PRICED}, :tag, :run, :milliseconds)""")

MOVE = Statement(f"""
    UPDATE requests SET state = :state
    WHERE key_id = :key_id AND idem_key = :idempotency_key AND attempt = :attempt AND state = :was
    RETURNING {_each("{0}")}""")

RETURN_HELD = Statement(f"""
    UPDATE keys SET {_each("{0}_held = {0}_held - :{0}")}
    WHERE id = :key_id""")

STALE = text("""
    SELECT key_id, idem_key, attempt FROM requests
    WHERE state = 'held' AND (expires_at <= :now OR held_at > :future)""")

ORPHANED = text("""
    SELECT key_id, idem_key, attempt FROM requests WHERE state = 'held' AND holder = :holder""")

HOLDERS = text("SELECT DISTINCT holder FROM requests WHERE state = 'held'")

UNHEARD = text("""
    SELECT key_id, idem_key, attempt FROM requests
    WHERE key_id = :key_id AND idem_key = :idempotency_key AND state = 'held'
      AND holder = :holder AND held_at = :held_at""")

WAIT_FOR = text("UPDATE keys SET version = version WHERE id = :key_id")
"""A transaction that holds something has locked its key: after this, what came of it is known."""

FORGET = text("""
    UPDATE requests SET reply = NULL WHERE reply IS NOT NULL AND settled_at <= :before""")

_TAKEN = {"texts": "CASE WHEN logits > 0 THEN texts ELSE 0 END"}
"""As `taken` says it, in SQL."""
_SOLD = "SELECT sum({0}) FROM ledger WHERE key_id = keys.id"
_OPEN = "SELECT sum({0}) FROM requests WHERE key_id = keys.id AND state = 'held'"

AUDITED = {f"{name}_used": _SOLD.format(_TAKEN.get(name, name)) for name in LIMITS} | {
    f"{name}_held": _OPEN.format(_TAKEN.get(name, name)) for name in LIMITS
}
"""What each counter of a key is the sum of."""

AUDIT = text(
    "SELECT id, "
    + ", ".join(f"{counter}, ({rows}) AS {counter}_rows" for counter, rows in AUDITED.items())
    + " FROM keys ORDER BY id"
)

HELD = text("SELECT count(*), min(held_at) FROM requests WHERE state = 'held'")
