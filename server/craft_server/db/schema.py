"""The schema of a database: which revision it is, and how it becomes that of this code.

Owns the order of revisions and what is done to a database that is empty, old, or newer than this
code. The caller of `bring` holds a lock, so that one process at a time does it (store.py). Alembic
is imported only where a database is old.

An empty database gets every table of `metadata` at once; an old one is led through migrations/.
"""

import logging
import threading

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from craft_server.db.tables import metadata

REVISIONS = ("0001", "0002", "0003", "0004")
"""Every revision, oldest first; each is a script in migrations/versions."""
HEAD = REVISIONS[-1]
"""The one that tables.py describes."""

_STAMP = "alembic_version"
_MAKE_STAMP = text("""
    CREATE TABLE IF NOT EXISTS alembic_version (
        version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
    )""")
"""As alembic makes it."""
_READ_STAMP = text("SELECT version_num FROM alembic_version")
_WRITE_STAMP = text("INSERT INTO alembic_version VALUES (:head)")

_ALEMBIC = threading.Lock()
"""Alembic keeps the migration that runs in globals of the process."""


class SchemaError(Exception):
    """The database has another schema than this code; it is as it was. The message says more."""


def revision(tx: Connection) -> str | None:
    """The revision of a database, one that this code may not know; None if it is empty."""
    names = set(inspect(tx).get_table_names())
    stamp: str | None = tx.scalar(_READ_STAMP) if _STAMP in names else None
    return stamp or (None if names.isdisjoint(metadata.tables) else REVISIONS[0])


def bring(tx: Connection, *, migrate: bool) -> str | None:
    """Make the database one of `HEAD`, in a transaction that the caller commits.

    Args:
        tx: holds the lock that all who do this take; foreign keys are off if it is SQLite.
        migrate: False changes nothing, and refuses whatever is not at `HEAD`.

    Returns:
        The revision that it had, or None if it was empty.

    Raises:
        SchemaError: it may not or could not be brought there; the caller must roll back.
    """
    found = revision(tx)
    check(found, migrate=migrate)
    if found is None:
        _create(tx)
    elif found != HEAD:
        _upgrade(tx, found)
    return found


def check(found: str | None, *, migrate: bool) -> None:
    """Refuse a revision from which `bring` may not or cannot start.

    Raises:
        SchemaError: as it does.
    """
    if found is not None and found not in REVISIONS:
        raise SchemaError(
            f"the database is at revision {found!r}, which this craft-server does not know: "
            f"it knows {REVISIONS[0]} to {HEAD}; use the version that wrote it, or a newer one"
        )
    if found != HEAD and not migrate:
        state = "empty" if found is None else f"at revision {found}"
        raise SchemaError(
            f"the database is {state}, this craft-server needs {HEAD}, and migrate is off; "
            "run `craft-server db upgrade`"
        )


def pending(found: str | None) -> list[str]:
    """What an upgrade of a database at that revision runs; nothing if it is empty or unknown."""
    return list(REVISIONS[REVISIONS.index(found) + 1 :]) if found in REVISIONS else []


def _create(tx: Connection) -> None:
    metadata.create_all(tx, checkfirst=False)
    tx.execute(_MAKE_STAMP)
    tx.execute(_WRITE_STAMP, {"head": HEAD})


def _upgrade(tx: Connection, found: str) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)  # the store logs what was done
    from alembic import command  # noqa: PLC0415 - see the docstring
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "craft_server:migrations")
    config.attributes["connection"] = tx
    try:
        with _ALEMBIC:
            command.upgrade(config, HEAD)
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", error)).partition("\n")[0]
        raise SchemaError(
            f"the database stays at revision {found}, its upgrade to {HEAD} failed: {cause}"
        ) from error
    if tx.dialect.name == "sqlite" and tx.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise SchemaError(
            f"the database stays at revision {found}: it has rows that belong to no key or "
            "request; `PRAGMA foreign_key_check` names them"
        )
