"""A server's sockets and signals: bound before anything else is done, drained when it is to end.

Owns the order of a start. The port comes first, so that a process that cannot have it ends before
it touches what others share.
"""

import errno
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

import uvicorn

NOT_STARTED = 3
"""Exit code of a server that could not start, as uvicorn has it."""

_BACKLOG = 2048
_KILLED_S = 5.0
_PAUSE_S = 0.1
_LOG = logging.getLogger(__name__)


class AddressError(Exception):
    """Nothing can listen there; the message says why."""


def check_free(place: tuple[str, int], probes: tuple[str, int] | None) -> None:
    """End the program if an address cannot be had; both are let go again.

    Args:
        place: host and port of the server.
        probes: those of probes and metrics, which the process of a server that was just killed may
            still have for a moment.
    """
    with ExitStack() as held:
        for each in bound(*place):
            held.enter_context(each)
        for each in bound(*probes, setting="metrics_port", patience_s=_KILLED_S) if probes else ():
            held.enter_context(each)


def bound(
    host: str, port: int, *, setting: str = "port", patience_s: float = 0.0
) -> list[socket.socket]:
    """As `listening`; ends the program if an address cannot be had."""
    try:
        return listening(host, port, setting=setting, patience_s=patience_s)
    except AddressError as error:
        _LOG.error("%s", error)
        sys.exit(NOT_STARTED)


def listening(
    host: str, port: int, *, setting: str = "port", patience_s: float = 0.0
) -> list[socket.socket]:
    """Listening sockets at all addresses of a host.

    Args:
        host: name or address.
        port: 0 for any.
        setting: that names the port, for whoever has to change it.
        patience_s: how long another program may still have the port.

    Raises:
        AddressError: one cannot be had.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            return _listening(host, port)
        except (OSError, UnicodeError) as error:  # UnicodeError: no name that a host can have
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            if not taken or time.monotonic() >= end:
                hint = f"; give another {setting}" if taken else ""
                sentence = f"nothing can listen on {host}:{port}: {_why(error)}{hint}"
                raise AddressError(sentence) from error
        time.sleep(_PAUSE_S)


def _why(error: OSError | UnicodeError) -> str:
    """Without the address, which the sentence has already."""
    if isinstance(error, socket.gaierror) or not isinstance(error, OSError):
        return str(getattr(error, "strerror", error))
    return os.strerror(error.errno) if error.errno else str(error)


def _listening(host: str, port: int) -> list[socket.socket]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with ExitStack() as opened:
        sockets = [
            opened.enter_context(socket.create_server(address, family=family, backlog=_BACKLOG))
            for family, address in dict.fromkeys((each[0], each[4]) for each in found)
        ]
        opened.pop_all()
    return sockets


def serve_on(
    sockets: list[socket.socket], config: uvicorn.Config, *, on_exit: Callable[[], None]
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then finish what runs.

    Args:
        sockets: where to listen.
        config: what to serve.
        on_exit: called as soon as the server is told to end.
    """
    for each in sockets:
        _LOG.info("listening on %s port %d", *each.getsockname()[:2])
    server = _Server(config, on_exit)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup has it ignored
        signal.signal(signal.SIGHUP, server.handle_exit)
    server.run(sockets)
    if not server.started:
        sys.exit(NOT_STARTED)


class _Server(uvicorn.Server):
    """uvicorn's server, which says that it ends as soon as it is told to."""

    def __init__(self, config: uvicorn.Config, on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_exit = on_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        self._on_exit()
        super().handle_exit(sig, frame)
