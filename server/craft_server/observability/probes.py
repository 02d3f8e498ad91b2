"""What probes say of a server: its state, kept by its parts, and the process that tells it.

Owns the state and the life of the process (probe_process.py has the rules and the reason why there
is one).
"""

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from craft_server.observability import probe_process
from craft_server.observability.probe_process import State
from craft_shared.errors import Code, Refusal

RETRY_AFTER_S = 5
"""When a client may ask again while the server is not ready."""

_TELL_S = 0.5
_STARTED_S = 30.0
_STOPPED_S = 5.0

_LOG = logging.getLogger(__name__)


class Health:
    """How a server is; written and read from any thread.

    Args:
        stalled_s: a device that is at one batch for longer hangs.
        busy_s: how long the device has been at the batch that runs; 0 if none does.
    """

    def __init__(self, *, stalled_s: float, busy_s: Callable[[], float]) -> None:
        self._stalled_s = stalled_s
        self._busy_s = busy_s
        self._loop_at = self._store_at = time.monotonic()
        self._device: str | None = None
        self._draining = False

    def loop_came(self) -> None:
        """The event loop came round."""
        self._loop_at = time.monotonic()

    def store_answered(self) -> None:
        """The store answered."""
        self._store_at = time.monotonic()

    def device_is(self, trouble: str | None) -> None:
        """A test forward succeeded (None), or why it did not."""
        self._device = trouble

    def drain(self) -> None:
        """The server ends: nothing more is to be sent to it."""
        self._draining = True

    def state(self) -> State:
        """All of it."""
        busy_s = self._busy_s()
        return State(
            loop_at=self._loop_at,
            store_at=self._store_at,
            busy_since=time.monotonic() - busy_s if busy_s else None,
            stalled_s=self._stalled_s,
            unready="the server is shutting down" if self._draining else self._device,
        )

    def check_alive(self) -> None:
        """Raise `not_ready` if the process should be started again."""
        _refuse(probe_process.dead(self.state(), time.monotonic()))

    def check_store(self) -> None:
        """Raise `not_ready` if the store has not answered lately."""
        _refuse(probe_process.away(self.state(), time.monotonic()))


def _refuse(detail: str | None) -> None:
    if detail is not None:
        raise Refusal(Code.NOT_READY, detail, retry_after_s=RETRY_AFTER_S)


@contextmanager
def answering(
    host: str, port: int, *, state: Callable[[], State], metrics_port: int
) -> Iterator[int]:
    """Answer probes by a process of their own for the body of the `with`; gives the port.

    Args:
        host: address to listen on.
        port: port to listen on, 0 for any.
        state: how the server is, asked twice a second.
        metrics_port: where this machine's loopback address has the metrics.

    Raises:
        OSError: the address cannot be had.
    """
    process, bound = _start(host, port, metrics_port)
    ended = threading.Event()

    def tell() -> None:
        nonlocal process
        while True:
            try:
                _tell(process, state())
            except OSError:
                _LOG.exception("the process that answers probes is gone; it is started again")
                process.kill()
                _stop(process)
                process = _again(host, bound, metrics_port) or process
            if ended.wait(_TELL_S):
                return

    thread = threading.Thread(target=tell, name="probes", daemon=True)
    thread.start()
    try:
        yield bound
    finally:
        ended.set()
        thread.join()
        _stop(process)


def _start(host: str, port: int, metrics_port: int) -> tuple["subprocess.Popen[bytes]", int]:
    arguments = [host, str(port), str(metrics_port)]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", probe_process.__file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a signal to the terminal's programs is not for it
    )
    said = _first_line(process)
    if not said.isdecimal():
        _stop(process)
        raise OSError(f"no probes and metrics on {host}:{port}: {said or 'no answer'}")
    return process, int(said)


def _first_line(process: "subprocess.Popen[bytes]") -> str:
    """What a process says first; one that says nothing is ended."""
    late = threading.Timer(_STARTED_S, process.kill)
    late.start()
    line: bytes = process.stdout.readline() if process.stdout else b""
    late.cancel()
    return line.decode(errors="replace").strip()


def _again(host: str, port: int, metrics_port: int) -> "subprocess.Popen[bytes] | None":
    try:
        return _start(host, port, metrics_port)[0]
    except OSError:
        _LOG.exception("probes are not answered")
        return None


def _tell(process: "subprocess.Popen[bytes]", state: State) -> None:
    if process.stdin is None or process.stdin.closed:
        raise BrokenPipeError
    process.stdin.write(json.dumps(state._asdict()).encode() + b"\n")
    process.stdin.flush()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End it by the end of its input."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what it did not read
                pipe.close()
    try:
        process.wait(_STOPPED_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
