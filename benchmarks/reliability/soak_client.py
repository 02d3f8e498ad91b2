"""One client of the soak: a seeded stream of good, rude and poisoned requests, each checked.

Every purchase has a name (its Idempotency-Key) and is asked until it is answered, also after a
hang-up, so that the client knows to the query what it must have been charged.
"""

import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.class_names import names_of
from benchmarks.common.servers import MULTIPART, Wire, multipart, noise_png
from craft_shared import wire
from craft_shared.messages import LogitsReply, LogitsRequest, SoftPrompts, TextPrompts
from craft_shared.tensors import TENSOR_MEDIA_TYPE

JSON_MEDIA_TYPE = "application/json"
CONTEXT, CONTEXT_TOKENS = "a photo of a", 4
TEMPLATES = ["a photo of a {}.", "{}", "a blurry picture of the {}", "so much {} here!"]
MOST_PROMPTS = 40
RETRYABLE = {409, 429, 503}
PATIENCE = 400
WAIT_S = 0.05
REMEMBERED = 8

WEIGHTS = {
    "soft": 30,
    "text": 15,
    "fixed": 5,
    "replay": 12,
    "hang up": 8,
    "usage": 8,
    "upload": 6,
    "poison": 16,
}

Logits = NDArray[np.floating]


class Wrong(Exception):
    """The server did not answer as it must."""


class Purchase(NamedTuple):
    """One request, ready to be sent and sent again."""

    name: str
    body: bytes
    tensors: bool
    shape: tuple[int, int, int]
    dtype: str

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the request, for `Wire`."""
        kind = TENSOR_MEDIA_TYPE if self.tensors else JSON_MEDIA_TYPE
        return {"Content_Type": kind, "Accept": kind, "Idempotency_Key": self.name}


class Poison(NamedTuple):
    """A request that must be refused, and with which status."""

    name: str
    status: int
    body: bytes
    headers: dict[str, str]
    path: str = "/v1/logits"
    key: str | None = None


class Shared:
    """What all clients must agree on: the bits of the fixed request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: bytes | None = None

    def same(self, logits: Logits) -> bool:
        """Are these the bits that the first client got?"""
        with self._lock:
            self._first = self._first or logits.tobytes()
            return self._first == logits.tobytes()


class SoakClient:
    """A client with an owner, a key, image sets and a memory of what it bought.

    Args:
        port: of the server.
        number: of this client; with `seed` it decides all that it does.
        seed: of the soak.
        keys: a key with budget for everything, and one of the same owner for a single query.
        shared: what all clients agree on.
    """

    def __init__(
        self, port: int, number: int, *, seed: int, keys: tuple[str, str], shared: Shared
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.bought: Counter[str] = Counter()
        self._port, self._number = port, number
        self._key, self._poor_key = keys
        self._shared = shared
        self._random = random.Random(f"{seed}/{number}")
        self._draw = np.random.default_rng([seed, number])
        self._names = names_of("dtd")
        self._wire = Wire(port, self._key)
        self._card: dict[str, Any] = {}
        self._sets: list[tuple[str, int]] = []
        self._past: list[tuple[Purchase, str]] = []
        self._fixed_set = ""
        self._serial = 0

    def run(self, until: float) -> None:
        """Go on until a time on the monotonic clock; whatever is wrong becomes a failure."""
        self._attempt("start", self._start)
        actions = self._actions()
        while time.monotonic() < until and self._sets:
            [kind] = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))
            self._attempt(kind, actions[kind])

    def _actions(self) -> dict[str, Callable[[], None]]:
        return {
            "soft": self._buy_soft,
            "text": self._buy_text,
            "fixed": self._buy_fixed,
            "replay": self._replay,
            "hang up": self._hang_up,
            "usage": self._read_usage,
            "upload": self._upload,
            "poison": self._poison,
        }

    def _attempt(self, kind: str, action: Callable[[], None]) -> None:
        self.counts[kind] += 1
        try:
            action()
        except (Wrong, OSError, HTTPException, ValueError, KeyError) as error:
            self.failures.append(f"client {self._number}, {kind}: {type(error).__name__}: {error}")
            self._wire.hang_up()

    def _start(self) -> None:
        self._card = json.loads(self._wire.read("GET", "/v1/models"))["models"][0]
        self._fixed_set = self._wire.image_set([noise_png(seed) for seed in range(5)])
        self._sets = [(self._fixed_set, 5)]
        self._upload()

    # --- good requests --------------------------------------------------------------------------

    def _buy_soft(self) -> None:
        self._remember(self._soft(self._random.randint(1, MOST_PROMPTS)))

    def _buy_text(self) -> None:
        count = self._random.randint(1, len(TEMPLATES))
        prompts = TextPrompts(templates=self._random.sample(TEMPLATES, count))
        self._remember(self._purchase(prompts, None, tensors=self._random.random() < 0.2))

    def _buy_fixed(self) -> None:
        offsets = 0.1 * np.random.default_rng(7).standard_normal(self._offsets_shape(6), np.float32)
        request = self._request(SoftPrompts(context=CONTEXT), self._fixed_set, self._names[:20])
        body = wire.encode_request(request, offsets)
        logits = self._ask(Purchase(self._name(), body, tensors=True, shape=(6, 5, 20), dtype="f4"))
        if not self._shared.same(logits):
            raise Wrong("the fixed request gives other bits than the first time")

    def _replay(self) -> None:
        if not self._past:
            return
        purchase, digest = self._random.choice(self._past)
        logits = self._ask(purchase, replayed=True)
        if _sha256(logits) != digest:
            raise Wrong("a replay differs from what was sold")

    def _hang_up(self) -> None:
        """Send, leave, and ask again until it is answered: bought once, whatever happened."""
        purchase = self._soft(self._random.randint(1, MOST_PROMPTS))
        self._wire.begin("POST", "/v1/logits", purchase.body, **purchase.headers)
        time.sleep(self._random.choice([0.0, 0.005, 0.02, 0.1]))
        self._wire.hang_up()
        self._remember(purchase, replayed=None)

    def _read_usage(self) -> None:
        """Nobody else uses this key, so that its counters must be this client's."""
        used = json.loads(self._wire.read("GET", "/v1/key"))["budgets"]["queries"]
        if (used["used"], used["held"]) != (self.bought["queries"], 0):
            raise Wrong(f"the key says {used}, this client bought {self.bought['queries']}")
        buckets = json.loads(self._wire.read("GET", "/v1/usage?bucket=total"))["buckets"]
        ledger: Counter[str] = Counter()
        for bucket in buckets:
            ledger.update(bucket["counters"])
        if ledger != self.bought:
            raise Wrong(f"the ledger says {dict(ledger)}, this client bought {dict(self.bought)}")

    def _upload(self) -> None:
        count = self._random.randint(1, 6)
        side = self._random.choice([16, 32, 48])
        files = [noise_png(self._random.getrandbits(32), side) for _ in range(count)]
        self._sets.append((self._wire.image_set(files), count))
        if len(self._sets) > REMEMBERED:
            self._sets.pop(1)

    # --- rude requests --------------------------------------------------------------------------

    def _poison(self) -> None:
        poison = self._random.choice(self._poisons())
        self.counts[f"poison: {poison.name}"] += 1
        client = self._wire if poison.key is None else Wire(self._port, poison.key)
        reply = client.send("POST", poison.path, poison.body, **poison.headers)
        content = reply.read()
        if poison.key is not None:
            client.hang_up()
        if reply.status != poison.status:
            said = f"{reply.status} {content[:200]!r}"
            raise Wrong(f"{poison.name}: {said}, expected {poison.status}")

    def _poisons(self) -> list[Poison]:
        good, soft = self._soft(2), SoftPrompts(context=CONTEXT)
        some_set, names = self._sets[0][0], self._names[:2]
        plain = self._request(soft, some_set, names)
        offsets = np.zeros(self._offsets_shape(2), np.float32)

        def tensors(request: LogitsRequest, values: NDArray[np.float32]) -> bytes:
            return wire.encode_request(request, values)

        nan = offsets.copy()
        nan[1, 2, 3] = np.nan
        bodies = [
            ("NaN offset", 422, tensors(plain, nan)),
            ("wrong shape", 400, tensors(plain, offsets[:, :-1])),
            ("long name", 422, tensors(self._request(soft, some_set, ["a " * 100]), offsets)),
            ("unknown set", 404, tensors(self._request(soft, "set_" + "0" * 32, names), offsets)),
            ("cut tensor body", 400, good.body[: len(good.body) // 2]),
            ("noise body", 400, self._random.randbytes(200)),
            ("unknown model", 404, tensors(plain.model_copy(update={"model": "no::1"}), offsets)),
        ]
        bare = {name: good.headers[name] for name in ("Content_Type", "Accept")}
        broken = multipart([noise_png(0)[:60]])
        return [
            *(Poison(name, status, body, good.headers) for name, status, body in bodies),
            Poison("no idempotency key", 400, good.body, bare),
            Poison("broken PNG", 422, broken, {"Content_Type": MULTIPART}, "/v1/images"),
            Poison("over budget", 402, good.body, good.headers, key=self._poor_key),
            Poison("wrong key", 401, good.body, good.headers, key="craft_no_such_key"),
            *(
                Poison("reused idempotency key", 422, good.body, past.headers | bare)
                for past, _ in self._past[-1:]
            ),
        ]

    # --- purchases ------------------------------------------------------------------------------

    def _soft(self, prompts: int) -> Purchase:
        offsets = 0.1 * self._draw.standard_normal(self._offsets_shape(prompts), np.float32)
        return self._purchase(SoftPrompts(context=CONTEXT), offsets, tensors=True)

    def _purchase(
        self,
        prompts: SoftPrompts | TextPrompts,
        offsets: NDArray[np.float32] | None,
        *,
        tensors: bool,
    ) -> Purchase:
        image_set, images = self._random.choice(self._sets)
        names = self._random.sample(self._names, self._random.randint(1, len(self._names)))
        half = self._random.random() < 0.3
        request = self._request(prompts, image_set, names, half=half)
        if tensors:
            body = wire.encode_request(request, offsets)
        else:
            body = request.model_dump_json(exclude_none=True).encode()
        templates = prompts.templates if isinstance(prompts, TextPrompts) else ()
        count = len(templates) if offsets is None else len(offsets)
        shape, dtype = (count, images, len(names)), "f2" if half else "f4"
        return Purchase(self._name(), body, tensors=tensors, shape=shape, dtype=dtype)

    def _request(
        self,
        prompts: SoftPrompts | TextPrompts,
        image_set: str,
        names: list[str],
        *,
        half: bool = False,
    ) -> LogitsRequest:
        return LogitsRequest(
            model=self._card["id"],
            image_set=image_set,
            class_names=names,
            prompts=prompts,
            dtype="float16" if half else "float32",
            tag="soak",
        )

    def _remember(self, purchase: Purchase, *, replayed: bool | None = False) -> None:
        self._past.append((purchase, _sha256(self._ask(purchase, replayed=replayed))))
        self._past = self._past[-REMEMBERED:]

    def _ask(self, purchase: Purchase, *, replayed: bool | None = False) -> Logits:
        """The logits of a purchase, checked; counted unless it was counted before.

        `replayed` None: it is not known whether the server has carried it out already.
        """
        status, reply, content = self._answer(purchase)
        if status != 200:
            raise Wrong(f"{status} {content[:300]!r}")
        message, logits = _read(content, purchase)
        queries, images, classes = purchase.shape
        cost = {
            "queries": queries,
            "calls": 1,
            "logit_vectors": queries * images,
            "texts": queries * classes,
            "logits": queries * images * classes,
        }
        if message.cost.model_dump() != cost:
            raise Wrong(f"cost {message.cost}, expected {cost}")
        if replayed is not True:
            self.bought.update(cost)
        if replayed is not None and message.replayed is not replayed:
            raise Wrong(f"replayed is {message.replayed}, expected {replayed}")
        charged = int(reply.getheader("X-Query-Cost", "-1"))
        if charged != (0 if message.replayed else queries):
            raise Wrong(f"X-Query-Cost {charged} for {queries} prompts")
        return logits

    def _answer(self, purchase: Purchase) -> tuple[int, HTTPResponse, bytes]:
        """Send until the answer is final."""
        for _ in range(PATIENCE):
            reply = self._wire.send("POST", "/v1/logits", purchase.body, **purchase.headers)
            content = reply.read()
            if reply.status not in RETRYABLE:
                return reply.status, reply, content
            self.counts[f"asked again after {reply.status}"] += 1
            time.sleep(WAIT_S)
        raise Wrong(f"still {reply.status} after {PATIENCE} attempts: {content[:200]!r}")

    def _offsets_shape(self, prompts: int) -> tuple[int, int, int]:
        return prompts, CONTEXT_TOKENS, int(self._card["context_width"])

    def _name(self) -> str:
        self._serial += 1
        return f"soak-{self._number}-{self._serial}"


def _read(content: bytes, purchase: Purchase) -> tuple[LogitsReply, Logits]:
    if purchase.tensors:
        message, logits = wire.decode_reply(content)
        if logits.dtype != np.dtype(f"<{purchase.dtype}"):
            raise Wrong(f"logits are {logits.dtype}, asked for {purchase.dtype}")
    else:
        message = LogitsReply.model_validate_json(content)
        logits = np.array(message.logits, np.float32)
    if logits.shape != purchase.shape:
        raise Wrong(f"logits of shape {logits.shape}, expected {purchase.shape}")
    if not np.isfinite(logits).all():
        raise Wrong("logits are not finite")
    return message, logits


def _sha256(logits: Logits) -> str:
    return hashlib.sha256(logits.tobytes()).hexdigest()
