"""A server that is no server: it takes any request and then does as told to the raw socket."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Event, Thread

Deed = Callable[[socket.socket, Event], None]
"""Done to a connection after a request has come; the event says that the test is over."""


@dataclass
class Hostile:
    """Where it listens, and the heads of all requests that came."""

    url: str
    heads: list[str] = field(default_factory=list)


@contextlib.contextmanager
def hostile(deed: Deed) -> Iterator[Hostile]:
    """Do `deed` to every connection, one after the other, then close it."""
    over = Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Hostile(f"http://127.0.0.1:{listener.getsockname()[1]}")
        listener.settimeout(0.05)
        thread = Thread(target=_serve, args=(listener, server, deed, over), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            over.set()
            thread.join()


def _serve(listener: socket.socket, server: Hostile, deed: Deed, over: Event) -> None:
    while not over.is_set():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            server.heads.append(_head(connection))
            deed(connection, over)


def _head(connection: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536) or b"\r\n\r\n"
    return data.split(b"\r\n\r\n")[0].decode("latin-1")


def without_end(head: str, block: bytes, *, pause_s: float = 0.0) -> Deed:
    """Send a head and then a block again and again, until nobody takes it."""

    def deed(connection: socket.socket, over: Event) -> None:
        connection.sendall(head.replace("\n", "\r\n").encode("latin-1"))
        while not over.wait(pause_s) if pause_s else not over.is_set():
            connection.sendall(block)

    return deed


def once(head: str, body: bytes = b"") -> Deed:
    """Send a head and a body."""

    def deed(connection: socket.socket, _over: Event) -> None:
        connection.sendall(head.replace("\n", "\r\n").encode("latin-1") + body)

    return deed
