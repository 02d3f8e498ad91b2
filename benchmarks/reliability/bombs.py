"""Hostile requests, each a single one: what must answer it, after how long, at what memory.

attacks.py throws them and those of floods.py; tests/e2e/test_bombs.py holds codes and bounds.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.common import forged
from benchmarks.common.machine import Row, peak_mb, resident_mb
from benchmarks.common.servers import MULTIPART, Server, Wire, multipart, noise_png
from benchmarks.reliability.target import JSON, Target
from craft_shared import testing, wire
from craft_shared.messages import LogitsRequest
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from craft_shared.wire import FloatArray

SETTINGS = {"model": "stub", "head_s": 2, "body_s": 3, "max_image_pixels": 32_000_000}
"""Slow senders are cut off sooner than by default, so that a run takes minutes."""

_GIGABYTE = 10**9
_MEGABYTE = bytes(2**20)


class Bomb(NamedTuple):
    """A hostile request, and what must answer it."""

    name: str
    code: str
    throw: Callable[[Target], str]


def bombs() -> list[Bomb]:
    """Every bomb."""
    return [
        *_images(),
        *_tensors(),
        *_json_bodies(),
        *_text_checks(),
        *_bodies(),
        *_slow(),
        *_names(),
    ]


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
        ("PNG with 700,000 chunks", "too_large", forged.png_chunks),
        ("JPEG of 1.8 million segments", "too_large", forged.jpeg_segments),
        ("JPEG with seven million stray bytes", "too_large", forged.jpeg_junk),
        ("JPEG of 1.8 million segments behind its end", "too_large", forged.jpeg_ended),
        ("JPEG with four million unknown marks", "too_large", forged.jpeg_marks),
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
            "/v1/logits", JSON, target.logits(prompts=soft, class_names="@").replace(b'"@"', text)
        )

    for name, code, text in [
        ("10^6 class names", "invalid_request", b"[" + b'"ab",' * 10**6 + b'"a"]'),
        ("4 x 10^6 class names that are numbers", "invalid_request", b"[" + b"0," * 4_000_000),
        ("JSON nested 100,000 deep", "invalid_request", b"[" * 100_000),
        ("JSON integer of 8 million digits", "invalid_request", b"9" * 8_000_000),
        ("JSON with 600,000 fields", "invalid_request", b'0,"a":0' + b',"a":0' * 600_000),
        ("JSON that is not UTF-8", "invalid_request", b'["\xff"]'),
        ("JSON with half a surrogate", "invalid_request", b'["\\ud800"]'),
    ]:
        yield Bomb(name, code, filled(text))


def _text_checks() -> Iterator[Bomb]:
    def check(target: Target, names: list[str], templates: list[str]) -> str:
        request = json.loads(target.logits())
        prompts = {"kind": "text", "templates": templates}
        body = {"model": request["model"], "class_names": names, "prompts": prompts}
        return target.ask("/v1/texts/check", JSON, json.dumps(body).encode())

    for name, code, names, templates in [
        ("check of 100,000 names", "too_large", ["x"] * 100_000, ["{}"]),
        ("check of a million names", "invalid_request", ["x"] * 10**6, ["{}"]),
        ("check of a name of 10 MB", "too_large", ["x" * 10**7], ["{}"]),
        ("check of 2,000,000 texts", "too_large", ["x"] * 2000, ["{}"] * 1000),
        ("check of 8,192 texts that do not fit", "200", ["x " * 100] * 1024, ["{}"] * 8),
    ]:
        yield Bomb(name, code, partial(check, names=names, templates=templates))


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
        return target.ask("/v1/logits", JSON, b"\x1f\x8b" + _MEGABYTE, Content_Encoding="gzip")

    yield Bomb("1 GB body with its length", "too_large", announced)
    yield Bomb("1 GB body of tensors in chunks", "too_large", chunked(TENSOR_MEDIA_TYPE))
    yield Bomb("1 GB body of JSON in chunks", "too_large", chunked(JSON))
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
        return target.send("/v1/logits", JSON, drops(), Content_Length="1000")

    def upload(target: Target) -> str:
        return target.send("/v1/images", MULTIPART, drops(part), Content_Length="1000")

    def trailers(target: Target) -> str:
        head = f"POST /v1/logits HTTP/1.1\r\nAuthorization: Bearer {target.key}\r\n"
        head += f"Content-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
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
        return partial(Target.get, path=path)

    def missing(target: Target) -> str:
        body = json.dumps({"ids": ["../../../../etc/passwd"]}).encode()
        return target.ask("/v1/images/missing", JSON, body)

    yield Bomb("set id with a NUL", "unknown_image_set", get("/v1/image-sets/set_%00"))
    yield Bomb("set id ../../../etc/passwd", "not_found", get("/v1/image-sets/../../etc/passwd"))
    yield Bomb("image id ../../../../etc/passwd", "invalid_request", missing)


def _upload(target: Target, files: list[bytes]) -> str:
    return target.ask("/v1/images", MULTIPART, multipart(files))


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
        self._wire.read("POST", "/v1/logits", self._good, Content_Type=JSON, Idempotency_Key="good")
        budget = json.loads(self._wire.read("GET", "/v1/key"))["budgets"]["queries"]
        self._wire.hang_up()
        return int(budget["used"]) + int(budget["held"])

    def throw(self, bomb: Bomb) -> Row:
        """Throw a bomb: what answered it, when, and how far memory rose."""
        with risen_mb(self._pid) as risen:
            began = time.perf_counter()
            code = bomb.throw(self.target)
            seconds = time.perf_counter() - began
        return {"bomb": bomb.name, "code": code, "seconds": seconds, "peak_mb": risen[0]}


@contextmanager
def risen_mb(pid: int) -> Iterator[list[float]]:
    """How far a process's memory rises above where it stands: the one item, at the end."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = resident_mb(pid)
    risen: list[float] = []
    yield risen
    risen.append(max(0, peak_mb(pid) - before))
