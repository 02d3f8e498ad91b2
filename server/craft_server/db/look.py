"""A look at a database that changes nothing: no file is made, no table, no mode of a file.

For those who want to know before a server is started. Owns what shows that it could be written to,
and how far its clock is from this machine's.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, text

from craft_server.db.engines import make_engine
from craft_server.db.schema import revision
from craft_server.db.store import BUSY_TIMEOUT_S, transaction, wall_clock

_READ_ONLY = text("SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool")
_MAY_CREATE = text("SELECT has_schema_privilege(current_schema(), 'CREATE')")
_MAY_INSERT = text("SELECT has_table_privilege('keys', 'INSERT, UPDATE')")
_NOW_US = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)")


@contextmanager
def looking(url: URL) -> Iterator[Connection | None]:
    """A transaction that only looks; None where a SQLite database would be made anew.

    Raises:
        ValueError: the URL cannot be used.
        Refusal: `not_ready`, the database does not answer.
    """
    engine = make_engine(url, BUSY_TIMEOUT_S, looking=True)
    try:
        if (path := file_of(url)) is not None and not path.exists():
            yield None
            return
        reader = engine.execution_options(craft_begin=("BEGIN",))
        with transaction(reader, BUSY_TIMEOUT_S) as tx:
            yield tx
    finally:
        engine.dispose()


def file_of(url: URL) -> Path | None:
    """The file of a SQLite database."""
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else None


def unwritable(tx: Connection) -> str | None:
    """Why the database takes no writes, as far as a look can tell."""
    if tx.dialect.name == "sqlite":
        path = Path(str(tx.engine.url.database))
        locked = next((each for each in (path, path.parent) if not os.access(each, os.W_OK)), None)
        return None if locked is None else f"this account may not write to {locked}"
    if tx.scalar(_READ_ONLY):
        return "it is a standby, or its transactions are read-only"
    if not tx.scalar(_MAY_INSERT if revision(tx) else _MAY_CREATE):
        return "its user may not write"
    return None


def clock_ahead_s(tx: Connection) -> float:
    """How far the database's clock is ahead of this machine's; SQLite has none of its own."""
    if tx.dialect.name == "sqlite":
        return 0.0
    return (int(tx.scalar(_NOW_US) or 0) - wall_clock()) / 1e6
