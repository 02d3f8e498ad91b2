"""Bytes on their way in or out: claimed before they are written, taken away some time after.

Owns the table `image_claims`. An upload first claims, within the quota, what it is going to write,
then writes, then announces: what the disk holds is counted whatever fails between. A deletion turns
an image into a claim, since requests in work may still read it. Whatever claim is old is taken away
later, with its bytes, on no caller's time: whether an older server shared them with another owner,
and so whether they go, must not show.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from craft_server.db.store import Store, StoreDown
from craft_server.db.tables import image_claims
from craft_server.images import totals
from craft_server.images.blobs import Blobs, BlobsDown, name_of
from craft_server.images.queries import had_by_anybody
from craft_server.images.totals import Totals

Row = dict[str, Any]
"""Of a new image: `digest`, `bytes` and what else the table `images` has."""

_LOG = logging.getLogger(__name__)
_ROUND = 100
"""Claims taken away before others have a turn: each takes the store's only write lock."""
_PAUSE_S = 0.5
_DIGESTS_PER_QUERY = 1000

_OF_OWNER = image_claims.c.owner == bindparam("of")
_THESE = _OF_OWNER & image_claims.c.digest.in_(bindparam("digests", expanding=True))
_FIND = select(image_claims.c.digest).where(_THESE)
_RENEW = update(image_claims).where(_THESE).values(since=bindparam("now"))
_DROP = delete(image_claims).where(_THESE)
_DUE = (
    select(image_claims.c.owner, image_claims.c.digest)
    .where(image_claims.c.since < bindparam("before"))
    .order_by(image_claims.c.since)
    .limit(_ROUND)
)
_ONE_DUE = (
    _OF_OWNER
    & (image_claims.c.digest == bindparam("one"))
    & (image_claims.c.since < bindparam("before"))
)
_SIZE = select(image_claims.c.bytes).where(_ONE_DUE)
_TAKE = delete(image_claims).where(_ONE_DUE)


def claim(tx: Connection, owner: str, rows: Sequence[Row], now: int) -> list[Row]:
    """Claim bytes for an owner that is locked; gives those rows that no sum counts yet."""
    known: set[str] = set()
    for some in _slices([row["digest"] for row in rows]):
        known.update(tx.execute(_FIND, {"of": owner, "digests": some}).scalars())
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
    """Take claims back, since images take their places; False if some are there no more."""
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
        due = tx.execute(_DUE, {"before": before}).all()
    for owner, digest in due:
        with store.together(durable=False), store.write() as tx:
            _remove(tx, blobs, owner, {"of": owner, "one": digest, "before": before})
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


def _remove(tx: Connection, blobs: Blobs, owner: str, claimed: Row) -> None:
    """One claim; the bytes go before the transaction ends, so that nobody claims them meanwhile."""
    totals.lock(tx, owner)
    size = tx.execute(_SIZE, claimed).scalar()
    if size is None:
        return  # claimed anew
    tx.execute(_TAKE, claimed)
    totals.add(tx, owner, Totals(images=-1, bytes=-size))
    blobs.remove(name_of(owner, claimed["one"]))
    if not had_by_anybody(tx, claimed["one"]):
        blobs.remove(claimed["one"])  # of an older server, for all owners


def _slices(digests: Sequence[str]) -> Iterable[list[str]]:
    for start in range(0, len(digests), _DIGESTS_PER_QUERY):
        yield list(digests[start : start + _DIGESTS_PER_QUERY])
