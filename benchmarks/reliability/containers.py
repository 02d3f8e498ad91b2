"""Replicas and Postgres of docker-compose.yml's profile `scale`, disturbed as an engine allows.

Owns how a container is stopped, killed, hung and started again. Knows the engine's command line and
the labels that Compose gives its containers, nothing of the protocol and no server code.
"""

import random
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPException
from typing import NamedTuple

import psycopg

from benchmarks.common.servers import READY_S, Wire
from benchmarks.reliability.stores import file_size_limit

COMMAND_S = 120.0
"""An engine that takes longer for a command is broken."""

STOPPED_S = 90
LISTENS = 8000
"""Where a replica listens in its container; published on any port of the loopback address."""


class Compose(NamedTuple):
    """A project of Compose."""

    project: str

    def containers(self, service: str) -> list[str]:
        """Ids of the containers of a service, running or not.

        Raises:
            SystemExit: it has none.
        """
        labels = {"project": self.project, "service": service}
        filters = [
            f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()
        ]
        found = docker("ps", "--all", "--quiet", "--no-trunc", *filters).split()
        if not found:
            raise SystemExit(f"the project {self.project} has no container of {service}")
        return found


def docker(*arguments: str) -> str:
    """What a command of the engine prints.

    Raises:
        SystemExit: it failed, or took too long.
    """
    return _docker(*arguments).stdout.strip()


def log_of(container: str) -> str:
    """All that a container said since it was made, on both its streams."""
    done = _docker("logs", container)
    return done.stdout + done.stderr


def _docker(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["docker", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=COMMAND_S
        )
    except subprocess.TimeoutExpired:
        raise SystemExit(f"no end within {COMMAND_S:.0f} s: {' '.join(command)}") from None
    if done.returncode != 0:
        raise SystemExit(f"failed: {' '.join(command)}\n{done.stderr[-2000:]}")
    return done


class ReplicaContainer:
    """A container of the service `replica`."""

    def __init__(self, container: str) -> None:
        self._container = container
        self.name = _inspect(container, "{{.Config.Hostname}}")

    @property
    def pids(self) -> list[int]:
        """Ids of its processes, as the host has them."""
        return _pids(self._container)

    def start(self) -> None:
        """Start it if it does not run."""
        docker("start", self._container)

    def wait_until_ready(self) -> None:
        """Return when it serves."""
        end = time.monotonic() + READY_S
        while time.monotonic() < end and _inspect(self._container, "{{.State.Running}}") == "true":
            try:
                Wire(self._port(), timeout_s=30).read("GET", "/readyz")
            except (OSError, HTTPException):
                time.sleep(0.1)
            else:
                return
        log = "\n".join(log_of(self._container).splitlines()[-50:])
        raise SystemExit(f"replica {self.name} is not ready; its log ends:\n{log}")

    def kill(self) -> None:
        """SIGKILL; the engine does not start again what it had to kill."""
        docker("kill", self._container)

    def stop(self) -> int:
        """SIGTERM; its exit code when it has ended."""
        docker("stop", "-t", str(STOPPED_S), self._container)
        return int(_inspect(self._container, "{{.State.ExitCode}}"))

    def close(self) -> None:
        """Leave it to who started it."""

    def _port(self) -> int:
        """It changes with every start."""
        return int(docker("port", self._container, str(LISTENS)).splitlines()[0].rpartition(":")[2])


class PostgresContainer:
    """The container of the service `postgres`.

    Args:
        container: its id.
        url: SQLAlchemy's, of its port as this machine has it.
    """

    name = "composed"

    def __init__(self, container: str, url: str) -> None:
        self._container = container
        self.url = url
        self._uri = url.replace("+psycopg", "", 1)

    def down(self, rng: random.Random) -> str:
        """Restart it, kill it or one of its processes, or let it hang."""
        ways: list[Callable[[random.Random], str]] = [
            self._restart,
            self._kill,
            self._crash,
            self._hang,
        ]
        said = rng.choice(ways)(rng)
        self._wait_until_back()
        return said

    def full(self, rng: random.Random, servers: Sequence[int]) -> str:
        """None of its processes that run may write beyond a limit; the servers may not either."""
        limit = rng.choice([0, 8192, rng.randint(0, 2**20)])
        seconds = rng.uniform(0.3, 1.5)
        postmaster = int(_inspect(self._container, "{{.State.Pid}}"))
        children = [pid for pid in _pids(self._container) if pid != postmaster]
        with file_size_limit([*children, *servers], limit):
            time.sleep(seconds)
        self._wait_until_back()
        return f"no file beyond {limit} bytes for {seconds:.1f} s"

    def close(self) -> None:
        """Leave it to who started it."""

    def _restart(self, rng: random.Random) -> str:
        docker("stop", self._container)
        return f"restarted, away for {self._start_later(rng):.1f} s"

    def _kill(self, rng: random.Random) -> str:
        docker("kill", self._container)
        return f"killed, away for {self._start_later(rng):.1f} s"

    def _start_later(self, rng: random.Random) -> float:
        seconds = rng.uniform(0.1, 1.5)
        time.sleep(seconds)
        docker("start", self._container)
        return seconds

    def _crash(self, rng: random.Random) -> str:
        """Postgres ends every session when one of its processes dies, and recovers by itself."""
        with psycopg.connect(self._uri, connect_timeout=30) as connection:
            sessions = connection.execute(
                "SELECT pid FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).fetchall()
        if not sessions:
            return "no session to kill"
        [victim] = rng.choice(sessions)
        docker("exec", self._container, "sh", "-c", f"kill -9 {victim} || true")
        return "one session killed"

    def _hang(self, rng: random.Random) -> str:
        seconds = rng.uniform(0.2, 2.0)
        docker("pause", self._container)
        time.sleep(seconds)
        docker("unpause", self._container)
        return f"hung for {seconds:.1f} s"

    def _wait_until_back(self) -> None:
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            with suppress(psycopg.OperationalError):
                psycopg.connect(self._uri, connect_timeout=30).close()
                return
            time.sleep(0.1)
        raise SystemExit(f"Postgres does not come back within {READY_S:.0f} s")


def _inspect(container: str, what: str) -> str:
    return docker("inspect", f"--format={what}", container)


def _pids(container: str) -> list[int]:
    return [int(line) for line in docker("top", container, "-eo", "pid").splitlines()[1:]]
