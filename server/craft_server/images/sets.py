"""Image sets: ordered lists of an owner's images, named by what is in them.

Owns the table `image_sets`. A set never changes; it can be deleted, and be made again with the same
id. An image that a set holds cannot be deleted.
"""

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cachetools import TTLCache
from sqlalchemy import Connection, bindparam, delete, func, select

from craft_server.db.store import Store
from craft_server.db.tables import image_sets
from craft_server.images import totals
from craft_server.images.decoding import ImageLimits
from craft_server.images.queries import find_set, insert_new, owned
from craft_server.images.totals import Totals
from craft_shared.errors import Code, Refusal
from craft_shared.messages import ImageSet
from craft_shared.messages import ImageSets as ImageSetPage

TRIES = 5
"""Looks before a write, if each time another request of the owner came between."""

_DIGEST_BYTES = 32
_LISTED_IDS = 10
_KEPT_DIGESTS = 500_000
_OWNER_DIGESTS = _KEPT_DIGESTS // 4
"""Of one owner: whoever asks for ever more sets pushes out only sets of its own."""
_KEPT_COUNTS = 10_000
KEPT_S = 60
"""How long a set that another replica deleted may still be asked about on this one."""
_SET_ID = re.compile("set_[0-9a-f]{32}")
_RETRY_AFTER_S = 1

_OF_OWNER = image_sets.c.owner == bindparam("of")
_DELETE = delete(image_sets).where(_OF_OWNER & (image_sets.c.id == bindparam("set")))
_HEAD = select(image_sets.c.id, image_sets.c.name, image_sets.c.count).where(
    _OF_OWNER & (image_sets.c.id == bindparam("set"))
)
"""What a set is called and how many images it has, without their digests: those may be 1.6 MB."""
_PAGE = (
    select(image_sets.c.id, image_sets.c.name, image_sets.c.count)
    .where(_OF_OWNER & (image_sets.c.id > bindparam("after")))
    .order_by(image_sets.c.id)
    .limit(bindparam("count"))
)
_HOLDERS = {
    "sqlite": func.instr(image_sets.c.digests, bindparam("packed")),
    "postgresql": func.position(bindparam("packed").op("IN")(image_sets.c.digests)),
}


@dataclass(frozen=True)
class ImageSetRecord:
    """A set as the service uses it: its owner, id and the digests of its images, in order.

    Equal lists of two owners have one id, so what is kept by id is kept by owner as well.
    """

    owner: str
    id: str
    digests: tuple[str, ...]


class ImageSets:
    """The sets of all owners; thread-safe.

    Args:
        store: where they are kept.
        limits: how many an owner may keep.
    """

    def __init__(self, store: Store, limits: ImageLimits) -> None:
        self._store = store
        self._limits = limits
        self._kept = _Kept()
        self._counts: TTLCache[tuple[str, str], int] = TTLCache(_KEPT_COUNTS, ttl=KEPT_S)
        self._lock = threading.Lock()

    def create(self, owner: str, digests: Sequence[str], *, name: str) -> ImageSet:
        """Name an ordered list of uploaded images; the same list gives the same set, free.

        Raises:
            Refusal: `unknown_image` lists ids not uploaded; `too_large`: too many of them, or more
                sets than an owner may keep; `overloaded`: others deleted images all the while.
        """
        if len(digests) > self._limits.images_per_set:
            detail = f"{len(digests)} images, at most {self._limits.images_per_set} in one set"
            raise Refusal(Code.TOO_LARGE, detail, param="images")
        packed = b"".join(map(bytes.fromhex, digests))
        row: dict[str, Any] = {
            "owner": owner,
            "id": f"set_{hashlib.sha256(packed).hexdigest()[:32]}",
            "name": name,
            "count": len(digests),
            "digests": packed,
        }
        for _ in range(TRIES):
            with self._store.read() as tx:
                seen = totals.look(tx, owner)  # first: what comes later is noticed
                kept = find_set(tx, owner, row["id"])
                if kept is None:
                    self._check_room(seen, len(digests))
                    _check_known(tx, owner, digests)
            kept = kept or self._insert(owner, row, seen)
            if kept is not None:
                return _described(kept)
        raise overtaken("images of this owner were deleted")

    def page(self, owner: str, *, after: str, limit: int) -> ImageSetPage:
        """The owner's sets in the order of their ids, from the one after `after`."""
        with self._store.read() as tx:
            asked = {"of": owner, "after": after, "count": limit + 1}
            rows = tx.execute(_PAGE, asked).all()
        more = rows[limit - 1].id if len(rows) > limit else None
        return ImageSetPage(sets=[_described(row) for row in rows[:limit]], next=more)

    def describe(self, owner: str, identifier: str) -> ImageSet:
        """A set as its owner sees it.

        Raises:
            Refusal: `unknown_image_set`, also where the set is another owner's.
        """
        return _described(self._head(owner, identifier))

    def known(self, owner: str, identifier: str) -> ImageSetRecord | None:
        """A set used within the last minute: sets never change, so those are kept in memory."""
        with self._lock:
            return self._kept.get(owner, identifier)

    def known_count(self, owner: str, identifier: str) -> int | None:
        """How many images a set has that was used or counted within the last minute."""
        with self._lock:
            kept = self._kept.get(owner, identifier)
            return self._counts.get((owner, identifier)) if kept is None else len(kept.digests)

    def count(self, owner: str, identifier: str) -> int:
        """How many images a set has; reads none of their digests. Raises like `describe`."""
        known = self.known_count(owner, identifier)
        if known is not None:
            return known
        count: int = self._head(owner, identifier).count
        with self._lock:
            self._counts[owner, identifier] = count
        return count

    def find(self, owner: str, identifier: str) -> ImageSetRecord:
        """A set with its images' digests; raises like `describe`."""
        kept = self.known(owner, identifier)
        if kept is not None:
            return kept
        packed: bytes = self._row(owner, identifier, find_set).digests
        starts = range(0, len(packed), _DIGEST_BYTES)
        digests = tuple(packed[start : start + _DIGEST_BYTES].hex() for start in starts)
        record = ImageSetRecord(owner=owner, id=identifier, digests=digests)
        with self._lock:
            self._kept.keep(record)
        return record

    def delete(self, owner: str, identifier: str) -> None:
        """Forget a set; requests in work on it are finished. Raises like `describe`."""
        row = self._head(owner, identifier)
        with self._store.write() as tx:
            totals.lock(tx, owner)
            if tx.execute(_DELETE, {"of": owner, "set": identifier}).rowcount:
                totals.add(tx, owner, Totals(sets=-1, set_images=-row.count))
        with self._lock:
            self._kept.forget(owner, identifier)
            self._counts.pop((owner, identifier), None)

    def _insert(self, owner: str, row: dict[str, Any], seen: Totals) -> Any:
        """Keep a set whose images were there when `seen`; None if some were deleted since."""
        with self._store.write() as tx:
            now = totals.lock(tx, owner)
            if now.images_removed != seen.images_removed:
                return None
            kept = find_set(tx, owner, row["id"])
            if kept is None:
                self._check_room(now, row["count"])
                insert_new(tx, image_sets, [row])
                totals.add(tx, owner, Totals(sets=1, set_images=row["count"], sets_made=1))
                kept = find_set(tx, owner, row["id"])
            return kept

    def _check_room(self, has: Totals, count: int) -> None:
        most, most_images = self._limits.owner_sets, self._limits.owner_set_images
        if has.sets >= most or has.set_images + count > most_images:
            detail = (
                f"this set would make {has.sets + 1} sets of {has.set_images + count} images in "
                f"all; an owner may keep {most} sets of {most_images} images in all: delete some "
                "(DELETE /v1/image-sets/{id})"
            )
            raise Refusal(Code.TOO_LARGE, detail, param="images")

    def _head(self, owner: str, identifier: str) -> Any:
        return self._row(owner, identifier, _find_head)

    def _row(self, owner: str, identifier: str, find: Callable[[Connection, str, str], Any]) -> Any:
        row = None
        if _SET_ID.fullmatch(identifier):  # Postgres takes no text with a NUL in it
            with self._store.read() as tx:
                row = find(tx, owner, identifier)
        if row is None:
            detail = f"{identifier!r} is not an image set of this key's owner"
            raise Refusal(Code.UNKNOWN_IMAGE_SET, detail, param="image_set")
        return row


class _Kept:
    """Sets in memory for `KEPT_S`: of one owner a share of them at most. Its user has a lock."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, TTLCache[str, ImageSetRecord]] = OrderedDict()

    def get(self, owner: str, identifier: str) -> ImageSetRecord | None:
        own = self._owners.get(owner)
        if own is None:
            return None
        self._owners.move_to_end(owner)
        return own.get(identifier)

    def keep(self, record: ImageSetRecord) -> None:
        """Keep a set, unless it is larger than a share; others go: first those of its owner."""
        if len(record.digests) > min(_OWNER_DIGESTS, _KEPT_DIGESTS):
            return
        own = self._owners.pop(record.owner, None)
        if own is None:
            own = TTLCache(_OWNER_DIGESTS, ttl=KEPT_S, getsizeof=lambda kept: len(kept.digests))
        own[record.id] = record
        self._owners[record.owner] = own
        self._make_room()

    def forget(self, owner: str, identifier: str) -> None:
        if owner in self._owners:
            self._owners[owner].pop(identifier, None)

    def _make_room(self) -> None:
        """Let the owners go whose sets were not used for the longest time, and who have none."""
        sizes = {owner: own.currsize for owner, own in self._owners.items()}
        excess = sum(sizes.values()) - _KEPT_DIGESTS
        for owner, size in sizes.items():
            if excess > 0 or not size:
                del self._owners[owner]
                excess -= size


def holder(tx: Connection, owner: str, digest: str) -> str | None:
    """The id of a set of the owner that holds an image; reads all sets of the owner."""
    where = _HOLDERS[tx.dialect.name] > 0
    found = select(image_sets.c.id).where(_OF_OWNER, where).limit(1)
    return tx.execute(found, {"of": owner, "packed": bytes.fromhex(digest)}).scalar()


def missing(tx: Connection, owner: str, digests: Sequence[str]) -> list[str]:
    """Those of the digests that this owner has not uploaded, in order, once each."""
    wanted = list(dict.fromkeys(digests))
    have = owned(tx, owner, wanted)
    return [digest for digest in wanted if digest not in have]


def overtaken(what: str) -> Refusal:
    """What is answered when each look was out of date before the write."""
    return Refusal(Code.OVERLOADED, f"{what} meanwhile; try again", retry_after_s=_RETRY_AFTER_S)


def _check_known(tx: Connection, owner: str, digests: Sequence[str]) -> None:
    if absent := missing(tx, owner, digests):
        listed = ", ".join(absent[:_LISTED_IDS])
        detail = f"{len(absent)} of {len(digests)} images are not uploaded: {listed}"
        raise Refusal(Code.UNKNOWN_IMAGE, detail, param="images")


def _find_head(tx: Connection, owner: str, identifier: str) -> Any:
    return tx.execute(_HEAD, {"of": owner, "set": identifier}).first()


def _described(row: Any) -> ImageSet:
    return ImageSet(id=row.id, name=row.name, images=row.count)
