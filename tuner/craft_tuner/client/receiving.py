"""A reply as it arrives: no longer than what was asked for can be, not packed, and not for ever.

A server is not trusted with the tuner's memory or time. What is kept of a success is bounded by
what its call expects; what is kept of an error, by what a problem document can be. A reply that is
packed (Content-Encoding) is refused, since a few bytes may unpack to any number. A reply whose
bytes come too slowly is cut off, be it in the head, where HTTP allows any number of lines that say
nothing, or in the body.
"""

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

import httpx

from craft_tuner.errors import ServerUnreachable

LEAST_BYTES_PER_S = 4096
"""A reply may take the call's time-out, and this rate beyond it: a modem's, and no line is slower
that carries images."""

PROBLEM_BYTES = 64 * 1024
"""Of an error's body; a problem document has a few hundred."""

_BLOCK = 64 * 1024
_ABOUT_THE_BODY = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})


class ReplyWatch:
    """Cuts the connection of one call off when its reply is overdue; a context manager.

    Args:
        longest_s: seconds from the end of the request to the end of the reply, for a reply of few
            bytes; each byte that came gives it more time.
        connection: what connections this client has opened so far, kept between its calls.
    """

    def __init__(self, longest_s: float, connection: dict[str, Any]) -> None:
        self.overdue = False
        """Whether it was cut off; what was read then is not all of it."""
        self.response: httpx.Response | None = None
        """What is read now: its bytes count as they come."""
        self._longest_s = longest_s
        self._connection = connection
        self._timer: threading.Timer | None = None
        self._since = 0.0
        self._over = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._timer is not None:
            self._timer.cancel()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Told by the HTTP client what it does: the extension `trace` of a request."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._connection["stream"] = info["return_value"]
        elif event.endswith("receive_response_headers.started"):
            self._since = time.monotonic()
            self._wait(self._longest_s)

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, self._look)
        self._timer.daemon = True
        self._timer.start()

    def _look(self) -> None:
        received = self.response.num_bytes_downloaded if self.response else 0
        due = self._since + self._longest_s + received / LEAST_BYTES_PER_S
        left = due - time.monotonic()
        if self._over.is_set():
            return
        if left > 0:
            self._wait(left)
            return
        self.overdue = True
        with suppress(OSError, KeyError, AttributeError):
            end = self._connection["stream"].get_extra_info("socket")
            socket.socket.shutdown(end, socket.SHUT_RDWR)  # wakes the thread that reads


def receive(response: httpx.Response, *, most_bytes: int, watch: ReplyWatch) -> httpx.Response:
    """Read a streamed response to its end, and give it as one that is read.

    Args:
        response: its body not read yet.
        most_bytes: of the body of a success; of an error's no more than `PROBLEM_BYTES` are kept.
        watch: told what is read.

    Raises:
        ServerUnreachable: a success is larger than that, or packed.
    """
    if response.is_success:
        _check_plain(response)
        _check_length(response, most_bytes)
    most = most_bytes if response.is_success else PROBLEM_BYTES
    watch.response = response
    blocks: list[bytes] = []
    size = 0
    read = response.is_stream_consumed  # by what answers in a network's place
    for block in [response.content] if read else response.iter_raw(_BLOCK):  # joins small ones
        size += len(block)
        if size > most:
            if response.is_success:
                raise _too_long(response, most_bytes)
            break
        blocks.append(block)
    headers = [(k, v) for k, v in response.headers.raw if k.lower() not in _ABOUT_THE_BODY]
    whole = httpx.Response(
        response.status_code, headers=headers, content=b"".join(blocks), request=response.request
    )
    whole.stream = httpx.ByteStream(b"")  # it is read, and its cycle would keep the body
    return whole


def _check_plain(response: httpx.Response) -> None:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ServerUnreachable(
            f"{_server(response)} answers {_asked(response)} packed as {encoding[:40]!r}, which "
            "was not asked for and is not unpacked; switch compression off in what stands between"
        )


def _check_length(response: httpx.Response, most_bytes: int) -> None:
    said = response.headers.get("content-length", "")
    if said.isascii() and said.isdigit() and int(said[:20]) > most_bytes:
        raise _too_long(response, most_bytes)


def _too_long(response: httpx.Response, most_bytes: int) -> ServerUnreachable:
    return ServerUnreachable(
        f"{_server(response)} answers {_asked(response)} with more than {most_bytes:,} bytes, and "
        "no honest reply has more; it was not read on: compare both programs' versions, or "
        "distrust the server"
    )


def _server(response: httpx.Response) -> str:
    return str(response.request.url.copy_with(path="/", query=None))


def _asked(response: httpx.Response) -> str:
    return f"{response.request.method} {response.request.url.path}"
