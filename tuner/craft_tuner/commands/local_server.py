"""A craft-server as a process of its own, for demo and bench: a key, a free port, ready, stopped.

Knows the server's command line and environment, nothing of its code: the two programs share a wire
protocol and no more.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from craft_tuner.activity import doing
from craft_tuner.errors import ServerUnreachable, UsageError, disk_errors_as
from craft_tuner.files import private, private_folder

PROGRAM = "craft-server"
HOST = "127.0.0.1"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 40.0

_OWNER = ("--owner", "demo")
_POLL_S = 0.2
_LOG_LINES = 20


@dataclass(frozen=True)
class LocalServer:
    """A running server of this machine."""

    url: str
    key: str
    process: "subprocess.Popen[bytes]"
    allow: Callable[[int], None]
    """Sets the key's limit on queries, what it has used included."""

    @property
    def pid(self) -> int:
        """Id of its process."""
        return self.process.pid


@contextmanager
def local_server(directory: Path, *, queries: int, keep: bool = False) -> Iterator[LocalServer]:
    """Start a server in `directory`, with a key of so many queries, and stop it at the end.

    A directory that had a server has its key: under a new token, and with the budget that it had,
    because what a key bought is replayed to no other.

    Args:
        directory: gets the server's ledger, images and log.
        queries: budget of a new key.
        keep: leave the server running.

    Raises:
        UsageError: craft-server is not installed, or the directory cannot be made.
        ServerUnreachable: it does not start; the message ends with the last lines of its log.
    """
    with disk_errors_as(UsageError, f"--out cannot hold the server's folder {directory}"):
        private_folder(directory)
    _leave_on_signals()
    program, port = find_program(), _free_port()
    environment = _environment(directory, port)
    log = directory / "server.log"
    command = _Command(program, environment)
    with doing("making a key for the server of this machine"):
        minted = _rotated_key(command) if log.exists() else None
        create = ("keys", "create", *_OWNER, "--queries", str(queries), "--json")
        minted = minted or command.json(*create)
    with open(log, "ab", opener=private) as output:
        process = subprocess.Popen(
            [program, "serve"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finished = False
    try:
        url = f"http://{HOST}:{port}"
        with doing("starting the server of this machine, which loads its model"):
            _wait_until_ready(process, url, log)
        yield LocalServer(url, minted["key"], process, partial(_allow, command, minted["id"]))
        finished = True
    finally:
        if not (keep and finished):
            with doing("stopping the server of this machine"):
                _stop(process)


def find_program() -> str:
    """The craft-server of this installation, else the one on the PATH.

    Raises:
        UsageError: there is none.
    """
    beside = Path(sys.executable).parent / PROGRAM
    found = str(beside) if beside.is_file() else shutil.which(PROGRAM)
    if found is None:
        raise UsageError(
            f"{PROGRAM} is not installed here; install it with `pip install "
            "'craft-blackbox[server,tuner]'`, or use a server elsewhere with `craft-tuner fit`"
        )
    return found


def _leave_on_signals() -> None:
    """Let a terminated process unwind, so that it stops the server that it started."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def _environment(directory: Path, port: int) -> dict[str, str]:
    """This process's, with the server's address and folder; another database would be foreign."""
    inherited = {k: v for k, v in os.environ.items() if k != "CRAFT_SERVER_DATABASE_URL"}
    return inherited | {
        "CRAFT_SERVER_DATA_DIR": str(directory.absolute()),
        "CRAFT_SERVER_HOST": HOST,
        "CRAFT_SERVER_PORT": str(port),
    }


@dataclass(frozen=True)
class _Command:
    """The server's command line, on the data of one server."""

    program: str
    environment: dict[str, str]

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.program, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            what = " ".join(arguments[:2])
            raise ServerUnreachable(f"`{PROGRAM} {what}` failed: {done.stderr.strip()}")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments))


def _rotated_key(command: _Command) -> Any:
    """The key of an earlier start under a new token; None if there is none."""
    keys = command.json("keys", "list", *_OWNER, "--json")
    return command.json("keys", "rotate", keys[0]["id"], "--json") if keys else None


def _allow(command: _Command, key_id: str, queries: int) -> None:
    command.run("keys", "set-budget", key_id, "--queries", str(queries))


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with httpx.Client(trust_env=False, timeout=START_TIMEOUT_S) as http:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise _failed(f"{PROGRAM} stopped with exit code {process.returncode}", log)
            try:
                if http.get(f"{url}/readyz").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(_POLL_S)
    raise _failed(f"{PROGRAM} was not ready within {START_TIMEOUT_S:.0f} s", log)


def _failed(what: str, log: Path) -> ServerUnreachable:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    return ServerUnreachable("\n  ".join([f"{what}; the end of {log}:", *lines]))


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port
