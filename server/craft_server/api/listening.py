"""A server's sockets and signals: bound before anything else is done, drained when it is to end.

Owns the order of a start. The port comes first, so that a process that cannot have it ends before
it touches what others share.
"""

import logging
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

NOT_STARTED = 3
"""Exit code of a server that could not start, as uvicorn has it."""

_BACKLOG = 2048
_LOG = logging.getLogger(__name__)


def bound(host: str, port: int) -> list[socket.socket]:
    """Listening sockets at all addresses of a host; ends the program if one cannot be had."""
    sockets = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            sockets.append(socket.create_server(address, family=family, backlog=_BACKLOG))
    except OSError as error:
        _LOG.error("nothing can listen on %s:%d: %s", host, port, error)
        sys.exit(NOT_STARTED)
    for each in sockets:
        _LOG.info("listening on %s port %d", *each.getsockname()[:2])
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
