"""What each owner has, kept as sums: nobody counts rows to know whether a quota is reached.

Owns the table `image_totals`. A transaction locks the owner's row, changes rows and sums, commits.
"""

from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, insert, select, update

from craft_server.db.tables import image_sets, image_totals, images
from craft_server.images.queries import lock_owner

_COLUMNS = [column for column in image_totals.c if column.name != "owner"]
_FIND = select(*_COLUMNS).where(image_totals.c.owner == bindparam("of"))
_ADD = (
    update(image_totals)
    .where(image_totals.c.owner == bindparam("of"))
    .values({column: column + bindparam(f"more_{column.name}") for column in _COLUMNS})
)
_IMAGES = select(func.count(), func.coalesce(func.sum(images.c.bytes), 0)).where(
    images.c.owner == bindparam("of")
)
_SETS = select(func.count(), func.coalesce(func.sum(image_sets.c.count), 0)).where(
    image_sets.c.owner == bindparam("of")
)


class Totals(NamedTuple):
    """What an owner has.

    Attributes:
        images: images, those whose bytes are still to be taken away too.
        bytes: of these images.
        sets: image sets.
        set_images: ids in all of them together.
        sets_made: sets ever made; changes whenever one is.
        images_removed: images ever deleted; changes whenever one is.
    """

    images: int = 0
    bytes: int = 0
    sets: int = 0
    set_images: int = 0
    sets_made: int = 0
    images_removed: int = 0


def look(tx: Connection, owner: str) -> Totals:
    """What the owner has at this moment; zeros where nothing was ever counted."""
    found = tx.execute(_FIND, {"of": owner}).first()
    return Totals() if found is None else Totals(*found)


def lock(tx: Connection, owner: str) -> Totals:
    """What the owner has; no other transaction changes it before this one ends.

    An owner without sums is counted: a new one, who has nothing, or one whose first rows came
    from a replica of the version that kept none.
    """
    lock_owner(tx, owner)
    found = tx.execute(_FIND, {"of": owner}).first()
    if found is not None:
        return Totals(*found)
    counts = [tx.execute(count, {"of": owner}).one() for count in (_IMAGES, _SETS)]
    counted = Totals(*counts[0], *counts[1])
    tx.execute(insert(image_totals), {"owner": owner, **counted._asdict()})
    return counted


def add(tx: Connection, owner: str, more: Totals) -> None:
    """Add to the sums of an owner that `lock` has locked; what went away is negative."""
    changes = {f"more_{name}": value for name, value in more._asdict().items()}
    tx.execute(_ADD, {"of": owner, **changes})
