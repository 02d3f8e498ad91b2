"""Hostile requests against the real program: what answers each, after how long, at what memory.

    python -m benchmarks bombs [--json FILE]

Prints the table of docs/security.md: for each bomb the code of the refusal, seconds until it, and
how far the server's memory rose above where it stood. After each bomb a good request must be
served, and the key must have paid nothing. tests/e2e/test_bombs.py holds the codes and bounds.
"""

import json
import select
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.common import forged
from benchmarks.common.machine import (
    Row,
    describe,
    options_of,
    peak_mb,
    print_heading,
    print_table,
    resident_mb,
    write_json,
)
from benchmarks.common.servers import HOST, MULTIPART, Server, Wire, multipart, noise_png, serving
from craft_shared import testing, wire
from craft_shared.messages import LogitsRequest
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from craft_shared.wire import FloatArray

COLUMNS = {
    "bomb": "bomb",
    "code": "answer",
    "seconds": "seconds|.2f",
    "peak_mb": "memory, MB|+.0f",
}
SETTINGS = {"model": "stub", "head_s": 2, "body_s": 3, "max_image_pixels": 32_000_000}
"""Slow senders are cut off sooner than by default, so that a run takes a minute."""

_JSON = "application/json"
_GIGABYTE = 10**9
_MEGABYTE = bytes(2**20)


class Target(NamedTuple):
    """A server to attack, and what a client with a key has on it."""

    port: int
    key: str
    image_set: str

    def ask(self, path: str, kind: str, body: bytes, **headers: str) -> str:
        """POST a whole body; what answers it."""
        sized = {"Content_Length": str(len(body))}
        return self.send(path, kind, iter([body]), **(sized | headers))

    def send(self, path: str, kind: str, pieces: Iterable[bytes], **headers: str) -> str:
        """POST a body piece by piece; what answers it."""
        named = {"Content_Type": kind, "Idempotency_Key": "bomb"} | headers
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
        head = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.key}", *lines]
        return self.exchange([("\r\n".join(head) + "\r\n\r\n").encode()], pieces)

    def exchange(self, *parts: Iterable[bytes]) -> str:
        """Send bytes until an answer comes; its code, or its status, or `closed`."""
        with socket.create_connection((HOST, self.port), timeout=60) as line:
            with suppress(ConnectionError):
                for piece in (piece for part in parts for piece in part):
                    if select.select([line], [], [], 0)[0]:
                        break
                    line.sendall(piece)
            return _answer(line)

    def logits(self, **fields: object) -> bytes:
        """A request for logits as JSON."""
        return json.dumps(testing.valid_request(image_set=self.image_set, **fields)).encode()


class Bomb(NamedTuple):
    """A hostile request, and what must answer it."""

    name: str
    code: str
    throw: Callable[[Target], str]


def bombs() -> list[Bomb]:
    """Every bomb."""
    return [*_images(), *_tensors(), *_json_bodies(), *_bodies(), *_slow(), *_names()]


def costly() -> list[Bomb]:
    """Files within every limit that take long: they are taken, at the most that a decode costs."""
    files = forged.costliest().items()
    return [Bomb(name, "200", partial(_upload, files=[data])) for name, data in files]


def _images() -> Iterator[Bomb]:
    for name, code, forge in [
        ("PNG of 5 KB, 36 million pixels", "too_large", forged.png_over_the_limit),
        ("PNG header of 50,000 x 50,000", "too_large", forged.png_header),
        ("PNG with 8 GB of compressed text", "undecodable_image", forged.png_text),
        ("PNG with 8,000 colour profiles", "too_large", forged.png_profiles),
        ("JPEG of 500,000 scans", "too_large", forged.jpeg_scans),
        ("JPEG with EXIF in 700,000 pieces", "too_large", forged.jpeg_exif),
        ("JPEG, truncated", "undecodable_image", forged.jpeg_truncated),
        ("WEBP, corrupted", "undecodable_image", forged.webp_corrupted),
    ]:
        yield Bomb(name, code, partial(_upload, files=[forge()]))


def _tensors() -> Iterator[Bomb]:
    for number in ("nan", "inf"):
        offsets = np.full((1, 4, 16), float(number), np.float32)

        def throw(target: Target, offsets: FloatArray = offsets) -> str:
            request = LogitsRequest.model_validate_json(target.logits())
            return target.ask(
                "/v1/logits", TENSOR_MEDIA_TYPE, wire.encode_request(request, offsets)
            )

        yield Bomb(f"offsets of {number}", "non_finite_offsets", throw)
    lies = {"overlap", "trailing bytes", "header length 2**63", "shape 2**200"}
    for attack in testing.attacks():
        if attack.name in lies:
            yield Bomb(
                f"tensor header: {attack.name}",
                "invalid_request",
                partial(Target.ask, path="/v1/logits", kind=TENSOR_MEDIA_TYPE, body=attack.body),
            )


def _json_bodies() -> Iterator[Bomb]:
    soft = {"kind": "soft", "context": "a", "offsets": [[[0.0]]]}

    def filled(text: bytes) -> Callable[[Target], str]:
        """Ask with `text` in the place of the class names."""
        return lambda target: target.ask(
            "/v1/logits", _JSON, target.logits(prompts=soft, class_names="@").replace(b'"@"', text)
        )

    for name, code, text in [
        ("10^6 class names", "too_large", b"[" + b'"ab",' * 10**6 + b'"a"]'),
        ("4 x 10^6 class names that are numbers", "invalid_request", b"[" + b"0," * 4_000_000),
        ("JSON nested 100,000 deep", "invalid_request", b"[" * 100_000),
        ("JSON integer of 8 million digits", "invalid_request", b"9" * 8_000_000),
        ("JSON with 600,000 fields", "invalid_request", b'0,"a":0' + b',"a":0' * 600_000),
        ("JSON that is not UTF-8", "invalid_request", b'["\xff"]'),
        ("JSON with half a surrogate", "invalid_request", b'["\\ud800"]'),
    ]:
        yield Bomb(name, code, filled(text))


def _bodies() -> Iterator[Bomb]:
    def endless() -> Iterator[bytes]:
        for _ in range(_GIGABYTE // len(_MEGABYTE)):
            yield b"%x\r\n" % len(_MEGABYTE) + _MEGABYTE + b"\r\n"

    def announced(target: Target) -> str:
        pieces = (_MEGABYTE for _ in range(_GIGABYTE // len(_MEGABYTE)))
        size = str(_GIGABYTE)
        return target.send("/v1/logits", TENSOR_MEDIA_TYPE, pieces, Content_Length=size)

    def chunked(kind: str) -> Callable[[Target], str]:
        return lambda target: target.send(
            "/v1/logits", kind, endless(), Transfer_Encoding="chunked"
        )

    def part_headers(target: Target) -> str:
        body = multipart([b""]).split(b"\r\n")[0] + b"\r\n" + b"x" * 32 * 2**20
        return target.ask("/v1/images", MULTIPART, body)

    def zipped(target: Target) -> str:
        return target.ask("/v1/logits", _JSON, b"\x1f\x8b" + _MEGABYTE, Content_Encoding="gzip")

    yield Bomb("1 GB body with its length", "too_large", announced)
    yield Bomb("1 GB body of tensors in chunks", "too_large", chunked(TENSOR_MEDIA_TYPE))
    yield Bomb("1 GB body of JSON in chunks", "too_large", chunked(_JSON))
    yield Bomb("Content-Encoding: gzip", "media_type", zipped)
    yield Bomb("upload of 10,000 parts", "invalid_request", partial(_upload, files=[b""] * 10_000))
    yield Bomb("part header of 32 MB", "invalid_request", part_headers)


def _slow() -> Iterator[Bomb]:
    def drops(start: bytes = b"") -> Iterator[bytes]:
        yield start
        while True:
            time.sleep(0.1)
            yield b"x"

    def body(target: Target) -> str:
        return target.send("/v1/logits", _JSON, drops(), Content_Length="1000")

    def upload(target: Target) -> str:
        return target.send("/v1/images", MULTIPART, drops(part), Content_Length="1000")

    def trailers(target: Target) -> str:
        head = f"POST /v1/logits HTTP/1.1\r\nAuthorization: Bearer {target.key}\r\n"
        head += f"Content-Type: {_JSON}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        return target.exchange([head.encode()], (b"x" * 2**16 for _ in range(1000)))

    part = multipart([b""])[:-60]
    start = b"GET /livez HTTP/1.1\r\nX: "
    megabytes = [b"x" * 2**16] * 1000
    yield Bomb("slow request head", "408", lambda target: target.exchange([start], drops()))
    yield Bomb("slow body", "deadline_exceeded", body)
    yield Bomb("slow upload", "deadline_exceeded", upload)
    yield Bomb("request head of 64 MB", "431", lambda target: target.exchange([start], megabytes))
    yield Bomb("trailers of 64 MB", "closed", trailers)


def _names() -> Iterator[Bomb]:
    def get(path: str) -> Callable[[Target], str]:
        return lambda target: target.exchange(
            [f"GET {path} HTTP/1.1\r\nAuthorization: Bearer {target.key}\r\n\r\n".encode()]
        )

    def missing(target: Target) -> str:
        body = json.dumps({"ids": ["../../../../etc/passwd"]}).encode()
        return target.ask("/v1/images/missing", _JSON, body)

    yield Bomb("set id with a NUL", "unknown_image_set", get("/v1/image-sets/set_%00"))
    yield Bomb("set id ../../../etc/passwd", "not_found", get("/v1/image-sets/../../etc/passwd"))
    yield Bomb("image id ../../../../etc/passwd", "invalid_request", missing)


def _upload(target: Target, files: list[bytes]) -> str:
    return target.ask("/v1/images", MULTIPART, multipart(files))


def _answer(line: socket.socket) -> str:
    reply = HTTPResponse(line)
    try:
        reply.begin()
        content = reply.read()
    except (OSError, HTTPException):
        return "closed"
    try:
        return str(json.loads(content)["code"])
    except (ValueError, KeyError):
        return str(reply.status)


class Range:
    """A server under attack, and a good client whose request must be served after each bomb."""

    def __init__(self, server: Server) -> None:
        self._pid = server.pid
        key = server.mint(100)
        self._wire = Wire(server.port, key)
        image_set = self._wire.image_set([noise_png(seed) for seed in range(2)])
        self.target = Target(server.port, key, image_set)
        self._good = self.target.logits(prompts={"kind": "text", "templates": ["a {}."]})
        self.serve()

    def serve(self) -> int:
        """Ask the good request, which is paid for once; queries spent by then."""
        self._wire.read(
            "POST", "/v1/logits", self._good, Content_Type=_JSON, Idempotency_Key="good"
        )
        budget = json.loads(self._wire.read("GET", "/v1/key"))["budgets"]["queries"]
        self._wire.hang_up()
        return int(budget["used"]) + int(budget["held"])

    def throw(self, bomb: Bomb) -> Row:
        """Throw a bomb: what answered it, when, and how far memory rose."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")
        before = resident_mb(self._pid)
        began = time.perf_counter()
        code = bomb.throw(self.target)
        seconds = time.perf_counter() - began
        risen = peak_mb(self._pid) - before
        return {"bomb": bomb.name, "code": code, "seconds": seconds, "peak_mb": max(0, risen)}


def main() -> None:
    """Throw every bomb and print the table."""
    options = options_of(__doc__)
    about, rows = describe(), list[Row]()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), **SETTINGS) as server:
        field = Range(server)
        for bomb in [*bombs(), *costly()]:
            rows.append(field.throw(bomb))
            if rows[-1]["code"] != bomb.code or field.serve() != 1:
                sys.exit(f"{rows[-1]}: expected {bomb.code}, and 1 query spent")
        server.totals()
    print_heading("Bombs", about)
    print_table(rows, COLUMNS)
    write_json(options.json, about, rows=rows)


if __name__ == "__main__":
    main()
