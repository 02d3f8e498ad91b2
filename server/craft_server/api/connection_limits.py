"""Limits on connections: how slow, how idle and how long a request may be, and how many there are.

Owns the bounds that uvicorn's protocol lacks.

    no request            a head (request line and headers) is complete within `head_s`, else 408
    a head, or trailers   64 KiB at most, else 431
    too many connections  the one that has waited longest without a request makes room, then the
                          one that has been in work longest without a key
    an answered request   its unread body is thrown away for `_LINGER_S`, then it is closed
    a reply               is read at `least` rate, and its end within `reply_s`, else it is closed
    half a connection     who ends its side after a whole request gets its reply
    a lost connection     its request is told so and those behind it are dropped

How long a body may take is bounded where it is read (middleware.py).
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from craft_server.api.least_rate import NO_LEAST_RATE, LeastRate, Reader

HEAD_BYTES = 64 * 1024
"""Input that completes nothing, in a row; what one read of the socket brings may come on top."""

_LINGER_S = 5.0
_CLOSE = "HTTP/1.1 {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_SLOW = _CLOSE.format("408 Request Timeout").encode()
_TOO_LARGE = _CLOSE.format("431 Request Header Fields Too Large").encode()
_TOO_MANY = _CLOSE.format("503 Service Unavailable\r\nRetry-After: 1").encode()

_UNSENT_BYTES = 2**18
"""Of one connection in the system's memory, beside what is on its way. Linux would take 4 MB."""

_QUEUED = 16
"""Requests read behind one in work. Only a line that is read shows that its client left."""

_STRANGER_S = 1.0
"""For so long a request may be in work without a key before its connection has to make room."""

_STILL_THERE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""Goes to a client that has ended its side: one that left resets the connection, others read on."""

_FIRST_LOOK_S = 0.1
_LOOK_S = 1.0
"""Between two looks whether a client that has ended its side is still there."""


class ConnectionLimits:
    """The connections of one server: makes their protocols and counts them.

    Args:
        head_s: time to send a head, from the connection's beginning or the last reply's end.
        reply_s: time to take a reply, from when the server has written all of it.
        connections: how many there may be at a time.
        least: the rate at which replies must be read.
    """

    def __init__(
        self,
        *,
        head_s: float,
        reply_s: float,
        connections: int,
        least: LeastRate = NO_LEAST_RATE,
    ) -> None:
        self.head_s = head_s
        self.reply_s = reply_s
        self.least = least
        self._most = connections
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # in the order in which they became idle
        self._strangers: dict[Connection, float] = {}  # since when they work without a key

    def __call__(self, *args: Any, **kwargs: Any) -> "Connection":
        """What uvicorn calls for each connection."""
        return Connection(self, *args, **kwargs)

    def opened(self, connection: "Connection") -> bool:
        """Count a new connection, closing another one if there are too many."""
        if len(self._open) >= self._most:
            self._make_room(connection.loop.time())
        if len(self._open) >= self._most:
            return False
        self._open.add(connection)
        return True

    def closed(self, connection: "Connection") -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        self._idle.pop(connection, None)
        self._strangers.pop(connection, None)

    def idle(self, connection: "Connection") -> None:
        """The connection has no request to be answered."""
        self._strangers.pop(connection, None)
        self._idle.setdefault(connection)

    def busy(self, connection: "Connection") -> None:
        """The connection has a request, and nobody knows whose."""
        self._idle.pop(connection, None)
        self._strangers.setdefault(connection, connection.loop.time())

    def known(self, connection: "Connection") -> None:
        """The connection's request has a key, whose share it takes."""
        self._strangers.pop(connection, None)

    def _make_room(self, now: float) -> None:
        if self._idle:
            next(iter(self._idle)).close_now(_TOO_SLOW)
        elif self._strangers:
            stranger, since = next(iter(self._strangers.items()))
            if now - since > _STRANGER_S:
                stranger.close_now(_TOO_SLOW)


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with the bounds at the top of this module."""

    def __init__(self, limits: ConnectionLimits, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._useless = 0
        self._progress = False
        self._in_body = False
        self._answering: Any = None
        self._reader: Reader = None  # type: ignore[assignment]  # as uvicorn's own, until connected

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        _keep_little_unsent(transport)
        self._reader = Reader(self.loop, transport, self._limits.least)
        if self._limits.opened(self):
            self._wait()
        else:
            self.close_now(_TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop every clock and tell the request in work; uvicorn tells the one read last alone."""
        self._stop()
        self._reader.stop()
        self._limits.closed(self)
        self.pipeline.clear()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse input; what completes neither a head nor a piece of a body is limited."""
        self._progress = False
        super().data_received(data)
        self._read_on()
        self._useless = 0 if self._progress else self._useless + len(data)
        if self._useless > HEAD_BYTES:
            self.close_now(_TOO_LARGE)

    def _read_on(self) -> None:
        """Few requests behind one in work do not stop the reading, as they do in uvicorn."""
        if 0 < len(self.pipeline) <= _QUEUED and len(self.cycle.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers, which come after a body, are dropped."""
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A request begins."""
        self._progress = self._in_body = True
        self._stop()
        self.scope["state"]["known"] = self._known
        super().on_headers_complete()

    def _known(self) -> None:
        self._limits.known(self)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """A request is handed on."""
        self._answering = cycle
        self._limits.busy(self)
        self._reader.start()
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        """The reader is behind."""
        super().pause_writing()
        self._reader.behind()

    def resume_writing(self) -> None:
        """The reader has caught up."""
        super().resume_writing()
        self._reader.caught_up()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client says no more. If its request is here as a whole, it may wait for the reply.

        A client that left looks the same until something is written to it. Who speaks HTTP/1.0
        cannot be written to before the reply, so it counts as one that left.
        """
        waits = self.cycle is not None and not self.cycle.response_complete and not self._in_body
        if not waits or self.scope["http_version"] != "1.1":
            return False
        self.cycle.keep_alive = False
        self._look(_FIRST_LOOK_S)
        return True

    def _look(self, next_s: float) -> None:
        """Write to a client that has ended its side; a reset ends this connection."""
        if not self._answering.response_started:
            self.transport.write(_STILL_THERE)
        self._after(next_s, lambda: self._look(_LOOK_S))

    def on_body(self, body: bytes) -> None:
        """A piece of a body is here."""
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is here as a whole; if it was answered before, the next one may come."""
        self._in_body = False
        self._progress = True
        super().on_message_complete()
        if self.cycle.response_complete:
            self._wait()

    def on_response_complete(self) -> None:
        """The whole reply is written: wait for the next head, or for the rest of the body."""
        queued = bool(self.pipeline)
        self._limits.known(self)
        super().on_response_complete()
        if self._in_body and not queued:
            self._limits.idle(self)
            self._after(_LINGER_S, self.transport.abort)
        elif not queued:
            self._wait()

    def close_now(self, response: bytes) -> None:
        """Close at once; says why where nothing else is on its way, in or out."""
        answered = self.cycle is None or self.cycle.response_complete
        if answered and not self._in_body and not self.transport.get_write_buffer_size():
            self.transport.write(response)
            self.transport.close()
        else:
            self.transport.abort()
        self._stop()
        self._limits.closed(self)

    def _wait(self) -> None:
        """Wait for the next head."""
        self._limits.idle(self)
        self._after(self._limits.head_s, self._waited)

    def _waited(self) -> None:
        """No head came. A reply that is still on its way to a slow reader has more time."""
        if self.transport.get_write_buffer_size():
            self._after(max(0, self._limits.reply_s - self._limits.head_s), self.transport.abort)
        elif self._useless:
            self.close_now(_TOO_SLOW)
        else:
            self.transport.abort()

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        self._stop()
        self._timer = self.loop.call_later(seconds, act)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _keep_little_unsent(transport: asyncio.Transport) -> None:
    """Let the system take no more of a reply than it can send, where it can be told so."""
    line = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None and line is not None and line.family in {socket.AF_INET, socket.AF_INET6}:
        line.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_BYTES)
