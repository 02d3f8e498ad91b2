"""Bytes on their way in or out: claimed before they are written, taken away some time after.

Owns the table `image_claims`. An upload first claims, within the quota, what it is going to write,
then writes, then announces: what the disk holds is counted whatever fails between. A deletion turns
an image into a claim, since requests in work may still read it. Whatever claim is old is taken away
later, with its bytes, on no caller's time: whether an older server shared them with another owner,
and so whether they go, must not show.

No transaction is open while bytes go, since their place may hang. The claim is marked first; until
it is gone, nobody may claim the same bytes or announce them.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, insert, or_, select, update

from craft_server.db.store import Store, StoreDown
from craft_server.db.tables import image_claims
from craft_server.images import totals
from craft_server.images.blobs import Blobs, BlobsDown, name_of
from craft_server.images.queries import had_by_anybody
from craft_server.images.totals import Totals
from craft_shared.errors import Code, Refusal

Row = dict[str, Any]
"""Of a new image: `digest`, `bytes` and what else the table `images` has."""

_LOG = logging.getLogger(__name__)
_ROUND = 100
"""Claims taken away before others have a turn: each takes the store's only write lock."""
_PAUSE_S = 0.5
_DIGESTS_PER_QUERY = 1000
_RETRY_AFTER_S = 1

_GOING = 2**62
"""Added to the time of a claim whose bytes are being taken away; no clock comes near."""
_GIVEN_UP_US = 20 * 60 * 1_000_000
"""Who has been taking bytes away for so long has died: longer than any object store's timeout."""

_OF_OWNER = image_claims.c.owner == bindparam("of")
_THESE = _OF_OWNER & image_claims.c.digest.in_(bindparam("digests", expanding=True))
_FIND = select(image_claims.c.digest, image_claims.c.since).where(_THESE)
_RENEW = update(image_claims).where(_THESE).values(since=bindparam("now"))
_DROP = delete(image_claims).where(_THESE, image_claims.c.since < _GOING)
_IS_DUE = or_(
    image_claims.c.since < bindparam("before"),
    and_(image_claims.c.since >= _GOING, image_claims.c.since < bindparam("given_up")),
)
_DUE = (
    select(image_claims.c.owner, image_claims.c.digest)
    .where(_IS_DUE)
    .order_by(image_claims.c.since)
    .limit(_ROUND)
)
_ONE = _OF_OWNER & (image_claims.c.digest == bindparam("one"))
_MARKED = _ONE & (image_claims.c.since == bindparam("mark"))
_ONE_DUE = select(image_claims.c.bytes, image_claims.c.since).where(_ONE, _IS_DUE)
_MARK = update(image_claims).where(_ONE).values(since=bindparam("mark"))
_UNMARK = update(image_claims).where(_MARKED).values(since=bindparam("was"))
_TAKE = delete(image_claims).where(_MARKED)


def claim(tx: Connection, owner: str, rows: Sequence[Row], now: int) -> list[Row]:
    """Claim bytes for an owner that is locked; gives those rows that no sum counts yet.

    Raises:
        Refusal: `overloaded`, some are being taken away at this moment.
    """
    known: set[str] = set()
    for some in _slices([row["digest"] for row in rows]):
        for row in tx.execute(_FIND, {"of": owner, "digests": some}):
            _check_stays(row)
            known.add(row.digest)
        tx.execute(_RENEW, {"of": owner, "digests": some, "now": now})
    fresh = [row for row in rows if row["digest"] not in known]
    if fresh:
        claims = [
            {"owner": owner, "digest": row["digest"], "bytes": row["bytes"], "since": now}
            for row in fresh
        ]
        tx.execute(insert(image_claims), claims)
    return fresh


def redeem(tx: Connection, owner: str, digests: Sequence[str]) -> bool:
    """Take claims back, since images take their places; False if some are gone or going."""
    taken = 0
    for some in _slices(digests):
        taken += tx.execute(_DROP, {"of": owner, "digests": some}).rowcount
    return taken == len(digests)


def remove_old(store: Store, blobs: Blobs, *, before: int) -> int:
    """Take away some claims from before a time, and their bytes; how many.

    Raises:
        Refusal: `not_ready`, the database or the place of the bytes does not answer.
    """
    with store.read() as tx:
        due = tx.execute(_DUE, _times(before)).all()
    for owner, digest in due:
        _remove(store, blobs, {"of": owner, "one": digest, **_times(before)})
    return len(due)


async def sweep(remove: Callable[[], int], *, every_s: float) -> None:
    """Call `remove` every `every_s`, and on and on while there is more; for good."""
    while True:
        removed = 0
        try:
            removed = await asyncio.to_thread(remove)
        except (StoreDown, BlobsDown) as outage:
            _LOG.warning("old image files stay a while: %s", outage)
        except Exception:  # noqa: BLE001 - of whatever kind, the next round must come
            _LOG.exception("old image files stay a while")
        await asyncio.sleep(_PAUSE_S if removed == _ROUND else every_s)


def _remove(store: Store, blobs: Blobs, claimed: Row) -> None:
    """One claim and its bytes; if they cannot be taken away, all is as it was."""
    with store.together(durable=False), store.write() as tx:
        totals.lock(tx, claimed["of"])
        due = tx.execute(_ONE_DUE, claimed).first()
        if due is None:
            return  # claimed anew, or being taken away by another replica
        tx.execute(_MARK, claimed)
        shared = had_by_anybody(tx, claimed["one"])
    try:
        blobs.remove(name_of(claimed["of"], claimed["one"]))
        if not shared:
            blobs.remove(claimed["one"])  # of an older server, for all owners
    except Exception:
        with store.together(durable=False), store.write() as tx:
            tx.execute(_UNMARK, claimed | {"was": due.since})
        raise
    with store.together(durable=False), store.write() as tx:
        totals.lock(tx, claimed["of"])
        if tx.execute(_TAKE, claimed).rowcount:
            totals.add(tx, claimed["of"], Totals(images=-1, bytes=-due.bytes))


def _times(before: int) -> Row:
    """What is due, and how what is taken away from now on is marked."""
    return {"before": before, "mark": _GOING + before, "given_up": _GOING + before - _GIVEN_UP_US}


def _check_stays(row: Any) -> None:
    if row.since >= _GOING:
        detail = f"the bytes of {row.digest}, deleted before, are just being taken away; try again"
        raise Refusal(Code.OVERLOADED, detail, retry_after_s=_RETRY_AFTER_S)


def _slices(digests: Sequence[str]) -> Iterable[list[str]]:
    for start in range(0, len(digests), _DIGESTS_PER_QUERY):
        yield list(digests[start : start + _DIGESTS_PER_QUERY])
