"""The statements on images: whose they are, and who else has them.

Owns their SQL. Each is built once: building a statement takes longer than running it.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    Connection,
    Dialect,
    Insert,
    Table,
    bindparam,
    func,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite

from craft_server.db.tables import image_sets, images

_IDS_PER_QUERY = 1000


_OF_LIST = {
    "sqlite": "(SELECT value FROM json_each('[\"' || replace(:digests, ',', '\",\"') || '\"]'))",
    "postgresql": "(SELECT unnest(string_to_array(:digests, ',')))",
}
_OWNED = {
    dialect: text(f"SELECT digest FROM images WHERE owner = :owner AND digest IN {of_list}")  # noqa: S608 - no values
    for dialect, of_list in _OF_LIST.items()
}
"""A list is one parameter. With one for each digest, 100,000 took a second of the interpreter."""
_HAD = select(images.c.owner).where(images.c.digest == bindparam("digest")).limit(1)
_FIND_SET = select(image_sets).where(
    image_sets.c.owner == bindparam("owner"), image_sets.c.id == bindparam("id")
)


_LOCKS = 0x696D6167
"""The first half of the names of our locks in Postgres: nobody else's begin so."""


def lock_owner(connection: Connection, owner: str) -> None:
    """Let no other transaction change what this owner has before this one ends.

    SQLite has one writer at a time and needs no lock. Two owners of one hash only wait in turn.
    """
    if connection.dialect.name != "sqlite":
        name = int.from_bytes(hashlib.sha256(owner.encode()).digest()[:4], "big", signed=True)
        connection.execute(select(func.pg_advisory_xact_lock(_LOCKS, name)))


def owned(connection: Connection, owner: str, digests: Iterable[str]) -> set[str]:
    """Those of the digests that the owner has uploaded."""
    wanted, find = list(digests), _OWNED[connection.dialect.name]
    found: set[str] = set()
    for start in range(0, len(wanted), _IDS_PER_QUERY):
        some = ",".join(wanted[start : start + _IDS_PER_QUERY])
        found.update(connection.execute(find, {"owner": owner, "digests": some}).scalars())
    return found


def had_by_anybody(connection: Connection, digest: str) -> bool:
    """Does any owner have this image?"""
    return connection.execute(_HAD, {"digest": digest}).first() is not None


def find_set(connection: Connection, owner: str, identifier: str) -> Any:
    """The row of an owner's set, or None."""
    return connection.execute(_FIND_SET, {"owner": owner, "id": identifier}).first()


def insert_new(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert the rows whose keys are new, also if another replica inserts the same just now."""
    connection.execute(insertion(connection.dialect, table), rows)


def insertion(dialect: Dialect, table: Table) -> Insert:
    """An INSERT that leaves rows alone which are there already, in SQLite or in Postgres."""
    if dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()
