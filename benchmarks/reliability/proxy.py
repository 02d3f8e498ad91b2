"""A TCP proxy that does to requests and replies what networks do, and remembers what servers said.

Knows where an HTTP message with a Content-Length ends and nothing else of the protocol; what a
reply says is read by fault_client.py. Each request goes to the server on a connection of its own.
"""

import random
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, Self

from benchmarks.reliability.fault_client import HOST, TIMEOUT_S, Answer, read

MISHAPS = {
    "passes": 30,
    "drops the request": 6,
    "cuts the request": 10,
    "drops the reply": 10,
    "cuts the reply": 10,
    "hangs up on the server": 10,
    "delays the request": 8,
    "delays the reply": 8,
    "duplicates": 20,
}
"""What happens to a request, and how often."""

LONGEST_DELAY_S = 0.4


class Seen(NamedTuple):
    """A reply that came out of the server, whether or not the client got it."""

    name: str
    answer: Answer


class Proxy:
    """Listens on a port of its own in front of a server's port."""

    def __init__(self, target: int, rng: random.Random) -> None:
        self._target = target
        self._random = rng
        self._lock = threading.Lock()
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.counts: Counter[str] = Counter()
        self.seen: list[Seen] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.settimeout(TIMEOUT_S)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Requests of one connection, until a mishap ends it."""
        with client, suppress(OSError):
            while (request := _message(client)).whole:
                with self._lock:
                    [mishap] = self._random.choices(list(MISHAPS), list(MISHAPS.values()))
                    fraction = self._random.random()
                    self.counts[mishap] += 1
                reply = self._carry(mishap, request.data, fraction)
                client.sendall(reply.data)
                if not reply.whole:
                    return

    def _carry(self, mishap: str, request: bytes, fraction: float) -> "_Message":
        """What the client is to get; what is not whole ends its connection."""
        if mishap == "drops the request":
            return _NOTHING
        if mishap == "cuts the request":
            return self._leave(request[: int(fraction * len(request))])
        if mishap == "hangs up on the server":
            return self._leave(request, after_s=fraction * LONGEST_DELAY_S / 4)
        if mishap == "delays the request":
            time.sleep(fraction * LONGEST_DELAY_S)
        if mishap == "duplicates":
            with ThreadPoolExecutor(2) as pool:
                reply, _ = pool.map(self._send, [request] * 2)
        else:
            reply = self._send(request)
        if mishap == "delays the reply":
            time.sleep(fraction * LONGEST_DELAY_S)
        if mishap == "drops the reply":
            return _NOTHING
        if mishap == "cuts the reply":
            return _Message(reply.data[: int(fraction * len(reply.data))], whole=False)
        return reply

    def _leave(self, data: bytes, *, after_s: float = 0.0) -> "_Message":
        """Send and hang up without waiting for a reply."""
        with self._server() as server:
            server.sendall(data)
            time.sleep(after_s)
        return _NOTHING

    def _send(self, request: bytes) -> "_Message":
        with self._server() as server:
            server.sendall(request)
            reply = _message(server)
        if reply.whole:
            self._remember(request, reply.data)
        return reply

    def _server(self) -> socket.socket:
        return socket.create_connection((HOST, self._target), timeout=TIMEOUT_S)

    def _remember(self, request: bytes, reply: bytes) -> None:
        head, _, content = reply.partition(b"\r\n\r\n")
        try:
            answer = read(int(head.split(b" ", 2)[1]), _headers(head), content)
        except (ValueError, KeyError) as error:
            answer = Answer(0, f"not of this protocol: {error!r}")
        name = _headers(request.partition(b"\r\n\r\n")[0])["idempotency-key"]
        with self._lock:
            self.seen.append(Seen(name, answer))


class _Message(NamedTuple):
    data: bytes
    whole: bool


_NOTHING = _Message(b"", whole=False)


def _message(source: socket.socket) -> _Message:
    """The next HTTP message, or what there was of it when the other side ended."""
    data = b""
    needed: int | None = None
    while needed is None or len(data) < needed:
        try:
            received = source.recv(65536)
        except OSError:
            received = b""
        if not received:
            return _Message(data, whole=False)
        data += received
        if needed is None and b"\r\n\r\n" in data:
            head, _, _ = data.partition(b"\r\n\r\n")
            needed = len(head) + 4 + int(_headers(head).get("content-length", "0"))
    return _Message(data, whole=True)


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
