"""A server of the protocol in a few lines, for tests of the client: no model, honest accounts.

`FakeServer` answers requests, charges each Idempotency-Key once, and does mischief on demand. It
stands behind `httpx.MockTransport` (`transport_to`) or on a real socket (`listening`), where it can
also drop, delay, cut short and repeat replies.
"""

import contextlib
import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import numpy as np
from PIL import Image

from craft_shared import int16_rows, wire
from craft_shared.admin import CLIENT_SCOPES
from craft_shared.errors import PROBLEM_MEDIA_TYPE, Code, Refusal
from craft_shared.int16_rows import Int16Rows
from craft_shared.messages import (
    Budget,
    Budgets,
    CardLimits,
    Counters,
    ImageSet,
    ImageSetRequest,
    KeyInfo,
    LogitsReply,
    LogitsRequest,
    Manifest,
    ManifestReply,
    ModelCard,
    ModelList,
    Policy,
    RefusedText,
    ReplyDtype,
    SoftPrompts,
    StoredImage,
    TextPrompts,
    TextsReply,
    TextsRequest,
    UploadReply,
    UsageBucket,
    UsageReply,
)
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from craft_tuner.client.purchases import add
from craft_tuner.client.transport import Patience, Transport
from craft_tuner.config.connection import Connection
from craft_tuner.data.pictures import encode_png
from craft_tuner.plan import numbers_told

WIDTH = 4
N_CTX = 4
KEY = "craft_test"
URL = "http://craft.test"


@dataclass(frozen=True)
class Answer:
    """One HTTP reply."""

    status: int = 200
    body: bytes = b""
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """One HTTP request as the server saw it."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


Mischief = Callable[["FakeServer", Asked], Answer | str | None]
"""Instead of the honest answer to the next logits call; a str is done to the socket."""


_PNG = encode_png(Image.new("L", (1, 1)))


def an_image(words: str | bytes, *, size: int = 0) -> bytes:
    """A PNG of one pixel with words behind it, which decoders pass over; at least `size` bytes."""
    tail = words.encode() if isinstance(words, str) else words
    return _PNG + tail.rjust(size - len(_PNG))


def limits(**changes: int) -> CardLimits:
    """Roomy limits, but for those given."""
    roomy = {
        "prompts": 100,
        "classes": 50,
        "images": 2000,
        "image_bytes": 10**6,
        "image_pixels": 10**7,
        "body_bytes": 10**7,
        "texts": 10**6,
        "logits": 10**7,
    }
    return CardLimits(**(roomy | changes))


def model_card(model: str = "fake::1", **changes: int) -> ModelCard:
    return ModelCard(
        id=model,
        digest=hashlib.sha256(model.encode()).hexdigest(),
        context_width=WIDTH,
        context_length=77,
        image_size=8,
        logit_scale=100.0,
        prompt_kinds=["soft", "text"],
        dtype="float32",
        text_path="none",
        limits=limits(**changes),
        reply_dtypes=["float32", "float16", "int16"],
    )


class FakeServer:
    """Images, sets, budget and purchases in memory; see the module's docstring."""

    def __init__(
        self, *, queries: int = 10_000, cards: list[ModelCard] | None = None, **limits: int
    ) -> None:
        """`limits` are those beside `queries`, by counter."""
        self.cards = cards or [model_card()]
        self.queries = queries
        self.limits = limits
        self.policy = Policy()
        self.scopes = list(CLIENT_SCOPES)
        self.expires_at: datetime | None = None
        self.instead: dict[str, Answer] = {}
        """Said to whatever is asked at a path, by path."""
        self.images: dict[str, bytes] = {}
        self.sets: dict[str, list[str]] = {}
        self.bought: dict[str, tuple[Counters, bytes]] = {}
        self.runs: dict[str, str] = {}
        self.blind = False
        self.old = False
        """Older than POST /v1/texts/check."""
        self.asked: list[Asked] = []
        self.mischief: list[Mischief] = []
        self.bad_image: bytes | None = None

    @property
    def spent(self) -> Counters:
        costs = [cost for cost, _ in self.bought.values()]
        names = Counters.model_fields
        return Counters(**{name: sum(getattr(c, name) for c in costs) for name in names})

    def calls(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path]

    def answer(self, asked: Asked) -> Answer | str:
        """The reply to a request, or what is done to its socket."""
        self.asked.append(asked)
        if asked.path == "/v1/logits" and self.mischief:
            done = self.mischief.pop(0)(self, asked)
            if done is not None:
                return done
        if asked.path in self.instead:
            return self.instead[asked.path]
        try:
            return self.honest(asked)
        except Refusal as refusal:
            return refused(refusal)

    def honest(self, asked: Asked) -> Answer:
        if asked.path == "/readyz":
            return Answer(body=b'{"status":"ok"}')
        if asked.headers.get("authorization") != f"Bearer {KEY}":
            raise Refusal(Code.INVALID_KEY, "no such key")
        if len(asked.body) > self.cards[0].limits.body_bytes:
            raise Refusal(Code.TOO_LARGE, f"a body of {len(asked.body)} bytes", param="body")
        routes = {
            "GET /v1/models": lambda _: said(ModelList(models=self.cards)),
            "GET /v1/key": lambda _: said(self._key()),
            "GET /v1/usage": self._usage,
            "POST /v1/images/missing": self._missing,
            "POST /v1/images": self._upload,
            "POST /v1/image-sets": self._create_set,
            "POST /v1/logits": self._logits,
            "POST /v1/texts/check": self._check_texts,
        }
        if self.old and asked.path == "/v1/texts/check":
            raise Refusal(Code.NOT_FOUND, "there is nothing here")
        route = routes.get(f"{asked.method} {asked.path}")
        if route is not None:
            return route(asked)
        return said(self._find_set(asked.path.removeprefix("/v1/image-sets/")))

    def _key(self) -> KeyInfo:
        return KeyInfo(
            id="key_1",
            owner="tests",
            scopes=self.scopes,
            budgets=self._budgets(),
            policy=self.policy,
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            expires_at=self.expires_at,
        )

    def _budgets(self) -> Budgets:
        spent = self.spent.model_dump()
        return Budgets(
            **{
                name: Budget(
                    limit=limit, used=spent[name], held=0, remaining=max(0, limit - spent[name])
                )
                for name, limit in {"queries": self.queries, **self.limits}.items()
            }
        )

    def spent_by_run(self) -> dict[str, Counters]:
        found: dict[str, list[Counters]] = {}
        for name, (cost, _) in self.bought.items():
            found.setdefault(self.runs[name], []).append(cost)
        return {run: add(costs) for run, costs in found.items()}

    def _usage(self, asked: Asked) -> Answer:
        if self.blind:
            raise Refusal(Code.SCOPE_DENIED, "no usage:read")
        if "by=run" in asked.query:
            rows = [
                UsageBucket(start=None, run=run, counters=cost)
                for run, cost in self.spent_by_run().items()
            ]
            return said(UsageReply(bucket="total", by="run", buckets=rows))
        bucket = httpx.QueryParams(asked.query).get("bucket", "total")
        start = None if bucket == "total" else datetime(2026, 1, 1, tzinfo=UTC)
        return said(
            UsageReply(bucket=bucket, buckets=[UsageBucket(start=start, counters=self.spent)])
        )

    def _missing(self, asked: Asked) -> Answer:
        ids = wire.parse(Manifest, asked.body).ids
        return said(ManifestReply(missing=[one for one in ids if one not in self.images]))

    def _upload(self, asked: Asked) -> Answer:
        stored = []
        for place, data in enumerate(files_of(asked)):
            if data == self.bad_image:
                where = f"files[{place}]"
                raise Refusal(Code.UNDECODABLE_IMAGE, f"{where}: not an image", param=where)
            digest = hashlib.sha256(data).hexdigest()
            self.images[digest] = data
            stored.append(StoredImage(id=digest, bytes=len(data), width=1, height=1, new=True))
        return said(UploadReply(images=stored))

    def _create_set(self, asked: Asked) -> Answer:
        request = wire.parse(ImageSetRequest, asked.body)
        assert set(request.images) <= set(self.images)
        packed = "".join(request.images).encode()
        name = f"set_{hashlib.sha256(packed).hexdigest()[:32]}"
        self.sets[name] = request.images
        return said(self._find_set(name))

    def _find_set(self, name: str) -> ImageSet:
        if name not in self.sets:
            raise Refusal(Code.UNKNOWN_IMAGE_SET, f"no set {name}")
        return ImageSet(id=name, name="", images=len(self.sets[name]))

    def _check_texts(self, asked: Asked) -> Answer:
        """A word is a token, and so are letters of high code: some 0.5 for a Chinese one."""
        request, most = wire.parse(TextsRequest, asked.body), self.cards[0].context_length
        soft = isinstance(request.prompts, SoftPrompts)
        templates = [f"{request.prompts.context} {{}}"] if soft else request.prompts.templates
        refused, longest = [], 0
        for prompt, template in enumerate(templates):
            for number, name in enumerate(request.class_names):
                count = len(template.replace("{}", name).split()) + sum(map(ord, name)) // 10_000
                longest = max(longest, count)
                if count > most:
                    where = {"prompt": prompt, "class_name": number, "code": "too_many_tokens"}
                    words = f"{name[:9]!r} takes {count} tokens, at most {most} fit"
                    refused.append(RefusedText(**where, detail=words))
        reply = TextsReply(
            model=request.model,
            longest=longest,
            most=most,
            context=len(request.prompts.context.split()) if soft else None,
            refused=refused[:100],
        )
        return said(reply)

    def _logits(self, asked: Asked) -> Answer:
        name = asked.headers["idempotency-key"]
        request, offsets = wire.decode_request(asked.body)
        if name in self.bought:
            cost, body = self.bought[name]
            return self._deliver(request, cost, np.load(io.BytesIO(body)), replayed=True)
        found = logits_of(request, offsets, self.sets[request.image_set])
        prompts, images, classes = found.shape
        cost = Counters(
            queries=prompts,
            calls=1,
            logit_vectors=prompts * images,
            texts=prompts * classes,
            logits=prompts * images * min(classes, numbers_told(self.policy.output)),
        )
        for counter, budget in self._budgets():
            if budget is not None and getattr(cost, counter) > budget.remaining:
                raise Refusal(Code.BUDGET_EXHAUSTED, f"needs {getattr(cost, counter)} {counter}")
        self.bought[name] = (cost, _bytes(found))
        self.runs[name] = request.run
        return self._deliver(request, cost, found, replayed=False)

    def _deliver(
        self, request: LogitsRequest, cost: Counters, found: np.ndarray, *, replayed: bool
    ) -> Answer:
        card = next(card for card in self.cards if card.id == request.model)
        reply = LogitsReply(
            model=card.id,
            digest=card.digest,
            image_set=request.image_set,
            cost=cost,
            budgets=self._budgets(),
            replayed=replayed,
        )
        body = wire.encode_reply(reply, _as_asked(found, request.dtype))
        return Answer(body=body, media_type=TENSOR_MEDIA_TYPE)


def _as_asked(logits: np.ndarray, dtype: ReplyDtype) -> np.ndarray | Int16Rows:
    return int16_rows.encode(logits) if dtype == "int16" else logits.astype(dtype)


def logits_of(request: LogitsRequest, offsets: np.ndarray | None, images: list[str]) -> np.ndarray:
    """(P, N, K) float32 that depends on every prompt, image and class, smoothly on offsets."""
    if isinstance(request.prompts, TextPrompts):
        prompts = np.stack([noise(text, WIDTH * N_CTX) for text in request.prompts.templates])
    else:
        prompts = offsets.reshape(len(offsets), -1) + noise(request.prompts.context, WIDTH * N_CTX)
    classes = np.stack([noise(name, WIDTH * N_CTX) for name in request.class_names])
    seen = np.stack([noise(image, WIDTH * N_CTX) for image in images])
    turned = np.tanh(prompts[:, None, :] + classes[None, :, :])
    return np.einsum("pkd,nd->pnk", turned, seen).astype(np.float32)


def noise(text: str, size: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return np.random.RandomState(seed).randn(size)


def files_of(asked: Asked) -> list[bytes]:
    """The files of a multipart body, in order."""
    boundary = re.search("boundary=(.+)", asked.headers["content-type"])[1].encode()
    parts = asked.body.split(b"--" + boundary)[1:-1]
    for part in parts:
        assert b'name="files"' in part.split(b"\r\n\r\n")[0]
    return [part.split(b"\r\n\r\n", 1)[1][:-2] for part in parts]


def said(message: Any, status: int = 200) -> Answer:
    return Answer(status, message.model_dump_json().encode())


def refused(refusal: Refusal, **headers: str) -> Answer:
    problem = refusal.problem(request_id="req_1")
    body = problem.model_dump_json().encode()
    return Answer(problem.status, body, PROBLEM_MEDIA_TYPE, headers)


def refuses(code: Code, **headers: str) -> Mischief:
    """Mischief: refuse with this code."""
    return lambda _server, _asked: refused(Refusal(code, "just because"), **headers)


def says(answer: Answer) -> Mischief:
    """Mischief: answer this."""
    return lambda _server, _asked: answer


def changes(**fields: Any) -> Mischief:
    """Mischief: charge honestly, answer with other fields in the reply."""

    def change(server: FakeServer, asked: Asked) -> Answer:
        honest = server.honest(asked)
        reply, logits = wire.decode_reply(honest.body)
        logits = fields.pop("logits", lambda same: same)(logits)
        request, _ = wire.decode_request(asked.body)
        answer = _as_asked(logits, request.dtype)
        body = wire.encode_reply(reply.model_copy(update=fields), answer)
        return Answer(body=body, media_type=TENSOR_MEDIA_TYPE)

    return change


def does(deed: str) -> Mischief:
    """Mischief: charge honestly, then `drop`, `cut`, `stall` or `repeat` the reply."""
    return lambda server, asked: f"{deed} {json.dumps(_as_text(server.honest(asked)))}"


@dataclass
class Waits:
    """In place of sleeping: the seconds asked for."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def transport_to(server: FakeServer, **options: Any) -> Transport:
    """A transport to the server without a network; it never sleeps."""

    def handle(request: httpx.Request) -> httpx.Response:
        query = request.url.query.decode()
        headers = dict(request.headers)
        asked = Asked(request.method, request.url.path, query, headers, request.read())
        answer = server.answer(asked)
        assert isinstance(answer, Answer)
        headers = {"content-type": answer.media_type, **answer.headers}
        return httpx.Response(answer.status, content=answer.body, headers=headers)

    defaults = {"sleep": Waits(), "uniform": lambda: 0.5, "mock": httpx.MockTransport(handle)}
    return Transport(Connection(URL, KEY), **(defaults | options))


@contextlib.contextmanager
def listening(server: FakeServer, *, port: int = 0) -> Iterator[str]:
    """The server on a real socket; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes: no wait for an ACK

        def handle_any(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = server.answer(Asked(self.command, path, query, headers, body))
            deed = ""
            if isinstance(answer, str):
                deed, _, text = answer.partition(" ")
                answer = _from_text(json.loads(text))
            self.reply(answer, deed)

        do_GET = do_POST = handle_any

        def reply(self, answer: Answer, deed: str) -> None:
            if deed == "drop":
                self.close_connection = True
                return
            if deed == "stall":
                time.sleep(1.0)
            body = answer.body[: len(answer.body) // 2] if deed == "cut" else answer.body
            for _ in range(2 if deed == "repeat" else 1):
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.media_type)
                self.send_header("Content-Length", str(len(answer.body)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)
            self.close_connection = deed == "cut"

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a client that hung up

    http = Server(("127.0.0.1", port), Handler)
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def impatient(url: str, **options: Any) -> Transport:
    """A transport to a real socket that waits little: read time-out 0.5 s, pauses of 10 ms."""
    patience = Patience(base_s=0.01, cap_s=0.01)
    return Transport(Connection(url, KEY, timeout_s=0.5), patience=patience, **options)


def _as_text(answer: Answer) -> dict[str, Any]:
    return {"status": answer.status, "body": answer.body.hex(), "media_type": answer.media_type}


def _from_text(text: dict[str, Any]) -> Answer:
    return Answer(text["status"], bytes.fromhex(text["body"]), text["media_type"])


def _bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
