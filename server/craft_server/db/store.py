"""The one transactional store: all that must survive a crash is in here, and nothing else is true.

Owns the engine, the two kinds of transaction and how a time is stored. Opening a store has
schema.py make or upgrade the tables, one process at a time.

SQLite by default: WAL, synchronous=FULL, and BEGIN IMMEDIATE for writes, so that one writer at a
time reads and changes what nobody else can change. One writer at a time also means that many small
writes are best made in one transaction (`together`; group_commit.py does that). Any other URL that
SQLAlchemy knows works by the same statements where they are valid; Postgres at its default READ
COMMITTED is the one meant.

Nobody waits for the database for good: a transaction has a longest time, in which it also gets its
connection. On Postgres that holds while the server itself is frozen (postgres.py).
"""

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from craft_server.db import schema
from craft_server.db.engines import make_engine
from craft_server.db.patience import patience
from craft_shared.errors import Code, Refusal

RETRY_AFTER_S = 1
"""When a client may ask again while the store does not answer."""

_LOG = logging.getLogger(__name__)


class StoreDown(Refusal):
    """The refusal of every request while the store does not answer."""

    @property
    def reason(self) -> str:
        """What the database's driver said, on one line; for operators, never for clients."""
        return " ".join(str(getattr(self.__cause__, "orig", None) or self.detail).split())


# --- time ---------------------------------------------------------------------------------------

Clock = Callable[[], int]
"""Microseconds since 1970 UTC: how every time is stored. Injected, so that tests can jump it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def wall_clock() -> int:
    """The machine's clock, in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def to_us(moment: datetime) -> int:
    """A moment as it is stored, exact; one without a time zone is taken as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND


def from_us(stored: int) -> datetime:
    """A stored time as a moment in UTC."""
    return _EPOCH + stored * _MICROSECOND


# --- transactions -------------------------------------------------------------------------------

_OUR_BUGS = (DataError, IntegrityError, NotSupportedError, ProgrammingError)
"""A broken constraint or statement is no outage: it must be seen, not retried."""

_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(7232648)")
_WAIT_FOR_TABLES = text("SELECT set_config('lock_timeout', :longest, true)")
"""While an upgrade waits for a table, so do all who want to read it after."""
_TAKE_TIME = text(
    "SELECT set_config('statement_timeout', :longest, true),"
    " set_config('lock_timeout', :longest, true)"
)
_PROBE = text("SELECT version_num FROM alembic_version")

BUSY_TIMEOUT_S = 5.0
"""Longest time of a transaction, where nothing else is said."""


_FULL, _NORMAL = "PRAGMA synchronous=FULL", "PRAGMA synchronous=NORMAL"
_IMMEDIATE = "BEGIN IMMEDIATE"
_ANY_ORDER = "PRAGMA foreign_keys=OFF"  # a table is replaced while others refer to it


class Statement:
    """SQL with `:names` that runs on the driver itself, in a transaction of a `Store`.

    A purchase is five small statements, and SQLAlchemy takes longer over each than SQLite does.
    The driver must take values by name as sqlite3 or psycopg does.
    """

    def __init__(self, sql: str) -> None:
        self._sql = {"qmark": sql, "pyformat": re.sub(r":(\w+)", r"%(\1)s", sql)}
        self._columns: tuple[str, ...] | None = None

    def first(self, tx: Connection, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Run it; gives the first row that it returns, by column."""
        cursor = tx.connection.cursor()
        cursor.execute(self._sql[tx.dialect.paramstyle], values)
        if self._columns is None:  # asked of the driver once: it describes twelve in five µs
            self._columns = tuple(column[0] for column in cursor.description or ())
        row = cursor.fetchone() if self._columns else None
        cursor.close()
        return None if row is None else dict(zip(self._columns, row, strict=True))


class Store:
    """The database behind a SQLAlchemy URL, at the newest revision of its schema.

    Thread-safe, and safe with other processes on the same database.

    Attributes:
        made: it was empty, and its tables were made just now.
    """

    def __init__(
        self, url: str | URL, *, busy_timeout_s: float = BUSY_TIMEOUT_S, migrate: bool = True
    ) -> None:
        """Open the database; make its tables if it is empty, upgrade them if they are old.

        Args:
            url: `sqlite:///PATH` (the folder is made) or another SQLAlchemy URL.
            busy_timeout_s: longest time of a transaction in seconds, the wait for another writer or
                for a free connection in it. On SQLite, it bounds these waits alone.
            migrate: False refuses an empty or old database instead.

        Raises:
            ValueError: the URL cannot be used.
            SchemaError: the database is newer than this code, or its upgrade is off or failed.
            Refusal: `not_ready`, the database does not answer.
        """
        self._url = url
        self._timeout_s = busy_timeout_s
        self._engine = make_engine(url, busy_timeout_s)
        self._reader = self._engine.execution_options(craft_begin=("BEGIN",))
        self._writer = self._engine.execution_options(craft_begin=(_FULL, _IMMEDIATE))
        self._hasty = self._engine.execution_options(craft_begin=(_NORMAL, _IMMEDIATE))
        self._open = threading.local()
        self.made = False
        with self.read() as tx:
            current = schema.revision(tx) == schema.HEAD
        if not current:
            self._bring_to_head(busy_timeout_s, migrate=migrate)

    def _bring_to_head(self, busy_timeout_s: float, *, migrate: bool) -> None:
        """In one transaction; others that start now wait for it, and find all done."""
        first = (_ANY_ORDER, _FULL, _IMMEDIATE)
        try:
            with transaction(self._engine.execution_options(craft_begin=first), math.inf) as tx:
                if not self.one_writer:
                    tx.execute(_TAKE_TIME, {"longest": "0"})
                    tx.execute(_ONE_AT_A_TIME)
                    tx.execute(_WAIT_FOR_TABLES, {"longest": str(round(busy_timeout_s * 1000))})
                found = schema.bring(tx, migrate=migrate)
        finally:
            self._engine.dispose()  # and with it the connection that checks no foreign keys
        self.made = found is None
        if found not in {None, schema.HEAD}:
            _LOG.warning("the database was upgraded from revision %s to %s", found, schema.HEAD)

    @contextmanager
    def read(self, longest_s: float | None = None) -> Iterator[Connection]:
        """A transaction that only looks. On SQLite all its statements see one moment.

        Args:
            longest_s: longest time, for what reads much; as others, if None.
        """
        with transaction(self._reader, longest_s or self._timeout_s) as tx:
            if longest_s is not None and not self.one_writer:
                tx.execute(_TAKE_TIME, {"longest": str(round(longest_s * 1000))})
            yield tx

    def session(self, timeout_s: float | None = None) -> "Session":
        """A connection of its own, each of whose transactions may take so long."""
        return Session(self._url, timeout_s or self._timeout_s)

    @property
    def path(self) -> Path | None:
        """The file of a SQLite database."""
        return Path(str(self._engine.url.database)) if self.one_writer else None

    @property
    def place(self) -> str:
        """Which database it is, to be told to people: a file's whole path, or a URL."""
        url = self._engine.url
        return url.render_as_string() if self.path is None else str(self.path.absolute())

    @property
    def one_writer(self) -> bool:
        """Does the database let one writer in at a time, so that grouping writes pays?"""
        return self._engine.dialect.name == "sqlite"

    def write(self) -> AbstractContextManager[Connection]:
        """A transaction that commits at the end of the block, or is undone if the block raises.

        Inside a block of `together` it is a part of that transaction and can still be undone alone.
        """
        shared: Connection | None = getattr(self._open, "connection", None)
        if shared is not None:
            return _part(shared)
        return transaction(self._writer, self._timeout_s)

    @contextmanager
    def together(self, *, durable: bool = True) -> Iterator[None]:
        """All `write` blocks of this thread inside commit as one transaction, or none of them.

        If not `durable`, SQLite does not wait for the disk: the commit survives this process, but
        a power failure may undo it, unless a durable one came after.
        """
        engine = self._writer if durable else self._hasty
        kept: dict[Engine, Connection] | None = getattr(self._open, "kept", None)
        with transaction(engine, self._timeout_s, kept) as connection:
            self._open.connection = connection
            try:
                yield
            finally:
                self._open.connection = None

    @contextmanager
    def keeping_connections(self) -> Iterator[None]:
        """Within the block, this thread keeps the connections of `together` from one to the next.

        Giving one back and taking it again takes as long as what a small purchase writes.
        """
        kept: dict[Engine, Connection] = {}
        self._open.kept = kept
        try:
            yield
        finally:
            self._open.kept = None
            for connection in kept.values():
                connection.close()

    def close(self) -> None:
        """Give back every connection; the store cannot be used in a `with` block meanwhile."""
        self._engine.dispose()


class Session:
    """One connection that is kept, apart from a store's others: it waits for none of them.

    What belongs to a session of the database lasts until `close`, or until the connection breaks;
    then the next transaction makes another.
    """

    def __init__(self, url: str | URL, timeout_s: float) -> None:
        engine = make_engine(url, timeout_s, connections=1)
        self._engine = engine.execution_options(craft_begin=("BEGIN",))
        self._timeout_s = timeout_s

    def read(self) -> AbstractContextManager[Connection]:
        """A transaction."""
        return transaction(self._engine, self._timeout_s)

    def answers(self) -> bool:
        """Does the database answer in time?"""
        try:
            with self.read() as tx:
                return tx.execute(_PROBE).first() is not None
        except StoreDown:
            return False

    def close(self) -> None:
        """End it."""
        self._engine.dispose()


def revision(url: str | URL) -> str | None:
    """The revision of a database, which is looked at and not changed; None if it is empty.

    Raises:
        ValueError: the URL cannot be used.
        Refusal: `not_ready`, the database does not answer.
    """
    engine = make_engine(url, BUSY_TIMEOUT_S)
    try:
        with transaction(engine.execution_options(craft_begin=("BEGIN",)), BUSY_TIMEOUT_S) as tx:
            return schema.revision(tx)
    finally:
        engine.dispose()


@contextmanager
def transaction(
    engine: Engine, longest_s: float, kept: dict[Engine, Connection] | None = None
) -> Iterator[Connection]:
    """The one place where an outage becomes a refusal, so that the server fails closed.

    Args:
        engine: of the connection.
        longest_s: how long it may wait.
        kept: connections to be used again; one with an error is not.
    """
    driver = engine.dialect.loaded_dbapi
    driver_bugs = tuple(getattr(driver, error.__name__) for error in _OUR_BUGS)
    begin = engine.begin() if kept is None else _begin(engine, kept)
    try:
        with patience(longest_s), begin as connection:
            yield connection
    except (*_OUR_BUGS, *driver_bugs):
        raise
    except (DBAPIError, PoolTimeout, driver.Error) as error:
        raise StoreDown(
            Code.NOT_READY,
            "the store does not answer; the same Idempotency-Key is never charged twice",
            retry_after_s=RETRY_AFTER_S,
        ) from error


@contextmanager
def _begin(engine: Engine, kept: dict[Engine, Connection]) -> Iterator[Connection]:
    connection = kept.pop(engine, None) or engine.connect()
    try:
        with connection.begin():
            yield connection
    except BaseException:
        connection.close()
        raise
    kept[engine] = connection


@contextmanager
def _part(connection: Connection) -> Iterator[Connection]:
    """A part of an open transaction, undone alone if the block raises."""
    driver: Any = connection.connection.driver_connection  # three plain words need no compiler
    driver.execute("SAVEPOINT part")
    try:
        yield connection
    except BaseException:
        driver.execute("ROLLBACK TO part")
        raise
    finally:
        driver.execute("RELEASE part")
