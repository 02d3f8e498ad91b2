"""What an attacker has: a server's port, and keys and images of an owner on it.

Speaks HTTP byte by byte, so that a request can be as wrong as it likes. Knows the protocol alone.
"""

import json
import select
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from typing import NamedTuple

from benchmarks.common.servers import HOST
from craft_shared import testing

JSON = "application/json"
_PATIENCE_S = 60.0


class Target(NamedTuple):
    """A server to attack, and what a client with a key has on it.

    Attributes:
        port: of the server.
        key: with some budget.
        image_set: of its owner.
        model: id of what is served.
        shape: of one soft prompt's offsets in the context `a photo of a`.
        large_set: of its owner as well, with many images.
    """

    port: int
    key: str
    image_set: str
    model: str = "stub::0"
    shape: tuple[int, int] = (4, 16)
    large_set: str = ""

    def ask(self, path: str, kind: str, body: bytes, **headers: str) -> str:
        """POST a whole body; what answers it."""
        sized = {"Content_Length": str(len(body))}
        return self.send(path, kind, iter([body]), **(sized | headers))

    def send(self, path: str, kind: str, pieces: Iterable[bytes], **headers: str) -> str:
        """POST a body piece by piece; what answers it."""
        return self.exchange([self.head(path, kind, **headers)], pieces)

    def head(self, path: str, kind: str, **headers: str) -> bytes:
        """The head of a POST; header names are given with underscores."""
        named = {"Content_Type": kind, "Idempotency_Key": "bomb"} | headers
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
        head = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.key}", *lines]
        return ("\r\n".join(head) + "\r\n\r\n").encode()

    def get(self, path: str) -> str:
        """GET a path; what answers it."""
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n\r\n"
        return self.exchange([head.encode()])

    def exchange(self, *parts: Iterable[bytes]) -> str:
        """Send bytes until an answer comes; its code, or its status, or `closed`."""
        try:
            with socket.create_connection((HOST, self.port), timeout=_PATIENCE_S) as line:
                with suppress(ConnectionError):
                    for piece in (piece for part in parts for piece in part):
                        if select.select([line], [], [], 0)[0]:
                            break
                        line.sendall(piece)
                return _answer(line)
        except OSError:
            return "closed"

    def logits(self, **fields: object) -> bytes:
        """A request for logits as JSON."""
        own = {"model": self.model, "image_set": self.image_set}
        return json.dumps(testing.valid_request(**(own | fields))).encode()

    def texts(self, names: Sequence[object], templates: Sequence[str] = ("a {}.",)) -> bytes:
        """A request in words, as JSON."""
        prompts = {"kind": "text", "templates": list(templates)}
        return self.logits(class_names=list(names), prompts=prompts)


def code_in(answer: bytes) -> str:
    """The code in what a server sent, the status where there is none, or `closed`."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head:
        return "closed"
    try:
        return str(json.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        return head.split(b" ")[1].decode()


def _answer(line: socket.socket) -> str:
    reply = HTTPResponse(line)
    try:
        reply.begin()
        content = reply.read()
    except (OSError, HTTPException):
        return "closed"
    try:
        return str(json.loads(content)["code"])
    except (ValueError, KeyError, TypeError):
        return str(reply.status)
