"""SQLAlchemy engines: how a connection to each kind of database is made, and how many there are.

Owns what is set on a connection. SQLite is set to survive a power cut and to wait for other
writers; Postgres by psycopg gives up in time (postgres.py).
"""

import contextlib
import math
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError, NoSuchModuleError

from craft_server import private_files
from craft_server.settings import DATABASE_EXAMPLES

CONNECTIONS = 24
"""At a time, of one process: more than all of its threads that use the store."""

_KEPT = 8
"""Connections that stay open when they are not in use."""
_FRESH_S = 1.0
"""A connection that was in use so short a time ago is not looked at."""
_WAL_PAUSE_S = 0.01


def make_engine(
    url: str | URL, timeout_s: float, *, connections: int = CONNECTIONS, looking: bool = False
) -> Engine:
    """An engine for a URL, whose every wait for a connection or a lock ends after `timeout_s`.

    Args:
        url: of the database.
        timeout_s: longest wait.
        connections: at a time.
        looking: SQLite makes no file, and nothing that it has is changed.

    Raises:
        ValueError: the URL cannot be used.
    """
    kept = min(connections, _KEPT)
    pool = {"pool_timeout": timeout_s, "pool_size": kept, "max_overflow": connections - kept}
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return _sqlite(parsed, timeout_s, pool, looking=looking)
        engine = create_engine(parsed, **pool)
    except NoSuchModuleError as error:
        raise ValueError(
            f"database_url cannot be used: {parsed.drivername!r} is no kind of database; "
            f"it is like {DATABASE_EXAMPLES}"
        ) from error
    except ModuleNotFoundError as error:
        raise ValueError(
            f"database_url cannot be used: {parsed.drivername} needs the package {error.name!r}; "
            "for Postgres: pip install 'craft-blackbox[server,postgres]'"
        ) from error
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"database_url cannot be used: {error}") from error
    _look_at_idle_connections(engine)
    if engine.dialect.driver == "psycopg":
        _give_up_in_time(engine, timeout_s)
    return engine


def _look_at_idle_connections(engine: Engine) -> None:
    """As `pool_pre_ping`, but not between two transactions of a busy server.

    The look takes an exchange with the database. The first error on a connection that broke within
    that second makes the pool drop all of them.
    """

    @event.listens_for(engine, "checkin")
    def checkin(_connection: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: Any, _proxy: Any) -> None:
        idle_since = record.info.get("idle_since", math.inf)  # none: it is new
        if time.monotonic() - idle_since < _FRESH_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error


def _give_up_in_time(engine: Engine, timeout_s: float) -> None:
    from craft_server.db.postgres import connect  # noqa: PLC0415 - the driver is an extra

    @event.listens_for(engine, "do_connect")
    def do_connect(_dialect: Any, _record: Any, args: Any, options: Any) -> Any:
        return connect(*args, timeout_s=timeout_s, **options)


def _sqlite(url: URL, busy_timeout_s: float, pool: dict[str, Any], *, looking: bool) -> Engine:
    if url.database in {None, "", ":memory:"}:
        raise ValueError("SQLite needs a file, as in sqlite:///var/craft.db, got none")
    path = Path(str(url.database))
    if looking:
        pool = pool | {"creator": lambda: _reader(path, busy_timeout_s)}
    engine = create_engine(url, connect_args={"timeout": busy_timeout_s}, **pool)
    if not looking:
        _make_private(path)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself: `begin` does
        if looking:
            return
        _switch_to_wal(connection, busy_timeout_s)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        for statement in connection.get_execution_options()["craft_begin"]:
            driver.execute(statement)

    return engine


def _reader(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection that makes no file: even a reader makes a WAL where there is none."""
    how = "mode=ro" if Path(f"{path}-wal").exists() else "immutable=1"
    address = f"{path.absolute().as_uri()}?{how}"
    return sqlite3.connect(address, uri=True, timeout=busy_timeout_s, check_same_thread=False)


def _make_private(path: Path) -> None:
    """The files that SQLite makes beside this one take its mode; older ones are tightened here."""
    private_files.make_folder(path.parent)
    with contextlib.suppress(OSError):  # SQLite says better what is wrong with the place
        private_files.make_file(path)
    for suffix in ("-wal", "-shm"):
        private_files.tighten(Path(f"{path}{suffix}"))


def _switch_to_wal(connection: Any, patience_s: float) -> None:
    """Several processes may open a new file at once, and SQLite does not wait here by itself."""
    end = time.monotonic() + patience_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(_WAL_PAUSE_S)
        else:
            return
