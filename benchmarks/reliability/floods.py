"""Attacks that need a crowd: what a key does, many times at once, to a server that others use too.

Each is thrown by threads until its time is over; bombs.py has the single requests, and throws both
while an onlooker buys.
"""

import hashlib
import itertools
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.common.servers import HOST, MULTIPART, multipart, noise_png
from benchmarks.reliability.target import JSON, Target, code_in
from craft_shared import testing, wire
from craft_shared.limits import MAX_CLASS_NAME_CHARS
from craft_shared.messages import LogitsRequest
from craft_shared.tensors import TENSOR_MEDIA_TYPE

Heard = Counter[str]
"""How often each answer came."""

EVENTS = 10_000
"""Lines of the ledger in one page: as many as a key may ask for."""

_NAMES = 256
_LARGE_NAMES, _LARGE_TEMPLATES, PICTURES = 128, 16, 520
"""Of a reply of more than 2^20 logits, which leaves in blocks."""

_SLOW, _STALLED, _READERS, _LOOKERS, _STRANGERS = 512, 260, 24, 16, 40
_MANY_IDS = 100_000
_DRIP_S = 0.2
_BUSY = frozenset({"rate_limited", "overloaded", "deadline_exceeded", "closed", "open"})
"""What a crowd may hear: it is asked to wait, cut off, or still has its line at the end."""

_PAYING = frozenset({"budget_exhausted", "budget_held"})


class Flood(NamedTuple):
    """An attack by many.

    Attributes:
        name: in a table.
        codes: all that may answer it.
        throw: does it until a moment, by `time.monotonic`.
        spent: is it by a key that has no budget at all?
    """

    name: str
    codes: frozenset[str]
    throw: Callable[[Target, float], Heard]
    spent: bool = False


def repeated(throw: Callable[[], str], until: float, *, senders: int) -> Heard:
    """Call on so many threads, each at least once, again and again until a moment."""

    def send(_: int) -> Heard:
        heard = Counter([throw()])
        while time.monotonic() < until:
            heard[throw()] += 1
        return heard

    with ThreadPoolExecutor(senders) as pool:
        return sum(pool.map(send, range(senders)), Heard())


def floods() -> list[Flood]:
    """Every flood."""
    return [
        *_texts(),
        *_text_checks(),
        *_offsets(),
        *_connections(),
        *_reads(),
        *_image_sets(),
        *_strangers(),
    ]


def fresh_name() -> str:
    """An Idempotency-Key that nobody used."""
    return f"flood-{time.monotonic_ns()}"


# --- one request, many times --------------------------------------------------------------------


def _texts() -> Iterator[Flood]:
    collapsing = [f"&{'amp;' * 60}{number:x}" for number in range(_NAMES)]
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [
        "".join(letters[(place * step) % 26] for place in range(MAX_CLASS_NAME_CHARS))
        for step in range(1, _NAMES + 1)
    ]
    dear: list[tuple[str, Sequence[object]]] = [
        ("texts that unescaping collapses", collapsing),
        ("256 long words", words),
        ("150,000 names", [str(number) for number in range(150_000)]),
        ("a million numbers for names", [0] * 10**6),
    ]
    for what, names in dear:
        throw = partial(_ask_texts, names=names)
        yield Flood(f"no budget: {what}", _BUSY | _PAYING, throw, spent=True)
    yield Flood(
        "long words that do not fit",
        _BUSY | _PAYING | {"too_many_tokens"},
        partial(_ask_texts, names=words),
    )


def _text_checks() -> Iterator[Flood]:
    """Texts that are counted for nothing, none of them seen before."""

    def look(target: Target, until: float) -> Heard:
        numbers = itertools.count()

        def throw() -> str:
            request = json.loads(target.texts([f"{next(numbers):x}" for _ in range(_NAMES)]))
            body = {name: request[name] for name in ("model", "class_names", "prompts")}
            return target.ask("/v1/texts/check", JSON, json.dumps(body).encode())

        return repeated(throw, until, senders=8)

    yield Flood("texts checked without end", _BUSY | {"200"}, look, spent=True)


def _ask_texts(target: Target, until: float, *, names: Sequence[object]) -> Heard:
    body = target.texts(names)

    def throw() -> str:
        return target.ask("/v1/logits", JSON, body, Idempotency_Key=fresh_name())

    return repeated(throw, until, senders=8)


def _offsets() -> Iterator[Flood]:
    def overflow(target: Target, until: float) -> Heard:
        offsets = np.zeros((8, *target.shape), np.float32)
        offsets[-1] = np.finfo(np.float32).max
        fields = {"model": target.model, "image_set": target.image_set}
        request = LogitsRequest.model_validate(testing.valid_request(**fields))
        body = wire.encode_request(request, offsets)

        def throw() -> str:
            name = fresh_name()
            return target.ask("/v1/logits", TENSOR_MEDIA_TYPE, body, Idempotency_Key=name)

        return repeated(throw, until, senders=4)

    codes = _BUSY | _PAYING | {"invalid_request"}
    yield Flood("offsets that overflow in the last prompt", codes, overflow)


# --- many connections ---------------------------------------------------------------------------


def _connections() -> Iterator[Flood]:
    yield Flood(f"{_SLOW} slow bodies of one key", _BUSY, _slow_bodies)
    yield Flood(f"{_STALLED} readers who do not read", _BUSY | {"200"}, _stalled_readers)


def _slow_bodies(target: Target, until: float) -> Heard:
    """A byte now and then on each of so many lines; in the place of a closed one comes another."""
    head = target.head("/v1/logits", JSON, Content_Length="1000000")
    heard, kept = Heard(), list[socket.socket]()
    with ExitStack() as lines:
        while time.monotonic() < until:
            while len(kept) < _SLOW and (line := _begin(lines, target.port, head)):
                kept.append(line)
            time.sleep(_DRIP_S)
            answers = [(line, _answer_of(line, drip=b" ")) for line in kept]
            kept = [line for line, answer in answers if answer == "open"]
            heard.update(answer for _, answer in answers if answer != "open")
        heard["open"] += len(kept)
    return heard


def _stalled_readers(target: Target, until: float) -> Heard:
    """Buy one large reply, then ask for it again on so many lines, and read nothing."""
    names = [f"thing {number}" for number in range(_LARGE_NAMES)]
    templates = [f"{number} {{}}" for number in range(_LARGE_TEMPLATES)]
    large = target._replace(image_set=target.large_set)
    body, name = large.texts(names, templates), fresh_name()
    heard = Counter([target.ask("/v1/logits", JSON, body, Idempotency_Key=name)])
    head = target.head("/v1/logits", JSON, Content_Length=str(len(body)), Idempotency_Key=name)
    kept = list[socket.socket]()
    with ExitStack() as lines:
        while time.monotonic() < until:
            while len(kept) < _STALLED and (line := _begin(lines, target.port, head + body)):
                kept.append(line)
            time.sleep(_DRIP_S)
        heard.update(_answer_of(line) for line in kept)
    return heard


def _begin(lines: ExitStack, port: int, sent: bytes) -> socket.socket | None:
    """A line with a small window on which something was sent; None if the server takes none."""
    line = lines.enter_context(socket.socket())
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.settimeout(5)
    try:
        line.connect((HOST, port))
        line.sendall(sent)
    except OSError:
        return None
    line.settimeout(0)
    return line


def _answer_of(line: socket.socket, drip: bytes = b"") -> str:
    """What came on a line, which is then closed; `open`, and a drip is sent, if nothing did."""
    try:
        answer = line.recv(2**14)
    except BlockingIOError:
        with suppress(OSError):
            line.send(drip)
        return "open"
    except OSError:
        answer = b""
    line.close()
    return code_in(answer)


# --- the books ----------------------------------------------------------------------------------


def _reads() -> Iterator[Flood]:
    def read(target: Target, until: float) -> Heard:
        throw = partial(target.get, f"/v1/usage/events?limit={EVENTS}")
        return repeated(throw, until, senders=_READERS)

    yield Flood(f"{_READERS} readers of {EVENTS:,} lines of the ledger", _BUSY | {"200"}, read)


def _image_sets() -> Iterator[Flood]:
    """One image in ever other lists: each is a set of its own."""
    picture = noise_png(1)
    digest = hashlib.sha256(picture).hexdigest()

    def make(target: Target, until: float) -> Heard:
        heard = Counter([target.ask("/v1/images", MULTIPART, multipart([picture]))])
        numbers = itertools.count(1)

        def throw() -> str:
            body = json.dumps({"images": [digest] * (next(numbers) % 50_000 + 1)}).encode()
            return target.ask("/v1/image-sets", JSON, body)

        return heard + repeated(throw, until, senders=8)

    def look(target: Target, until: float) -> Heard:
        ids = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(_MANY_IDS)]
        body = json.dumps({"ids": ids}).encode()
        return repeated(
            partial(target.ask, "/v1/images/missing", JSON, body), until, senders=_LOOKERS
        )

    yield Flood("image sets without end", _BUSY | {"200", "too_large"}, make, spent=True)
    yield Flood("manifests of 100,000 ids", _BUSY | {"200"}, look, spent=True)


def _strangers() -> Iterator[Flood]:
    def ask(target: Target, until: float) -> Heard:
        stranger = target._replace(key="")
        return repeated(partial(stranger.get, "/openapi.json"), until, senders=_STRANGERS)

    yield Flood("the OpenAPI document without a key", _BUSY | {"200"}, ask, spent=True)
