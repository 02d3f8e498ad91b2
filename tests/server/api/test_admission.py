"""Nothing expensive before admission: what a key without room costs, and whom it disturbs."""

import asyncio
import json
import socket
import threading
import time

import numpy as np
import pytest

from craft_server.accounts.shares import Caller as CallerOf
from craft_server.api.services import services_of
from craft_server.app import card_limits, create_app
from craft_server.models.stub import StubBlackBox
from craft_shared.errors import Code
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from tests.server.conftest import mint
from tests.support.serving import in_thread, png, soft_body, text_request

pytestmark = pytest.mark.slow  # the whole boundary

MIB = 2**20


class Caller:
    """Calls an application as a server does, so that all CPU time is the application's.

    Attributes:
        read: pieces of bodies that the application asked for.
    """

    def __init__(self, app, token, *, piece=64 * 1024):
        self.app, self._piece = app, piece
        self._authorization = f"Bearer {token}".encode()
        self.read = 0

    async def post(self, body, name="one", *, kind="application/json", leave=None):
        pieces = [body[start : start + self._piece] for start in range(0, len(body), self._piece)]
        sent = []

        async def receive():
            if not pieces:
                await (leave.wait() if leave else asyncio.Event().wait())
                return {"type": "http.disconnect"}
            self.read += 1
            body = pieces.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(pieces)}

        async def send(message):
            sent.append(message)

        headers = {
            b"authorization": self._authorization,
            b"content-type": kind.encode(),
            b"idempotency-key": name.encode(),
            b"content-length": str(len(body)).encode(),
        }
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/logits",
            "raw_path": b"/v1/logits",
            "query_string": b"",
            "headers": list(headers.items()),
            "server": ("test", 80),
            "client": ("test", 1),
            "scheme": "http",
        }
        await self.app(scope, receive, send)
        content = b"".join(each["body"] for each in sent[1:])
        return sent[0]["status"], json.loads(content) if content else None


@pytest.fixture
def settings(settings):
    """Nobody waits for a turn: what is measured is work."""
    return settings.model_copy(update={"unpaid_per_second": 0})


@pytest.fixture
def set_id(app):
    images = services_of(app).images
    added = images.add("ann", [png(1), png(2)])
    return images.create_set("ann", [image.id for image in added], name="").id


def caller(app, queries, **fields):
    return Caller(app, mint(app, queries, **fields).token)


def as_json(set_id, **fields):
    return json.dumps(text_request(set_id) | fields).encode()


def the_worst(set_id):
    """Bodies of 8 MB: names, numbers, lists, one text."""
    size = 8 * MIB - 1000
    soft = {"kind": "soft", "context": "a photo of a", "offsets": "NUMBERS"}
    numbers = as_json(set_id, prompts=soft).replace(b'"NUMBERS"', b"[[[%s]]]")
    names = as_json(set_id, class_names="NAMES").replace(b'"NAMES"', b"[%s]")
    yield names % b",".join([b'"a"'] * (size // 4))
    yield numbers % b",".join([b"0"] * (size // 2))
    yield numbers % b",".join([b"[0]"] * (size // 4))
    yield as_json(set_id, class_names=["a" * size])


def refused(answer, code):
    status, problem = answer
    return (problem["code"], status) == (code.value, problem["status"])


@pytest.mark.parametrize("limits", [{"queries": 0}, {"queries": 10, "logit_vectors_limit": 0}])
def test_a_key_without_budget_is_refused_before_its_body_is_read(app, set_id, limits):
    poor = caller(app, **limits)

    async def main():
        for body in the_worst(set_id):
            assert refused(await poor.post(body), Code.BUDGET_EXHAUSTED)

    asyncio.run(main())
    assert poor.read == 0


def test_a_key_without_budget_costs_like_a_stranger_whatever_it_sends(app, set_id):
    """CPU time, beside that of a key that nobody knows; `benchmarks bombs` has milliseconds.

    Before, parsing alone took 10 ms (one text) to seconds (lists), ten to a thousand times as much.
    """
    poor, stranger = caller(app, 0), Caller(app, "craft_nobody")
    bodies = [as_json(set_id), *the_worst(set_id)]

    async def cost(who):
        began = time.process_time()
        for body in bodies:
            await who.post(body)
        return time.process_time() - began

    async def main():
        await cost(poor), await cost(stranger)
        return [(await cost(poor), await cost(stranger)) for _ in range(10)]

    costs = asyncio.run(main())
    assert min(spent for spent, _ in costs) < 5 * min(unknown for _, unknown in costs)


def test_the_refusal_has_the_meters_own_words(app, set_id):
    poor = caller(app, 0)
    status, problem = asyncio.run(poor.post(as_json(set_id)))
    assert (status, problem["param"]) == (402, "queries")
    assert problem["detail"] == "needs 1 queries, 0 remain: limit 0, used 0, held 0"


def test_a_spent_key_gets_what_it_bought_and_nothing_else(app, set_id):
    spent = caller(app, 2)

    async def main():
        status, bought = await spent.post(as_json(set_id), "bought")
        assert status == 200
        await asyncio.sleep(1.1)  # the key is remembered for a second
        status, again = await spent.post(as_json(set_id), "bought")
        assert (status, again["replayed"]) == (200, True)
        assert again["logits"] == bought["logits"]
        before = spent.read
        assert refused(await spent.post(as_json(set_id), "new"), Code.BUDGET_EXHAUSTED)
        assert spent.read == before
        other = as_json(set_id, class_names=["other"])
        assert refused(await spent.post(other, "bought"), Code.IDEMPOTENCY_KEY_REUSED)

    asyncio.run(main())


def test_no_text_is_read_of_another_request_under_a_name_that_is_taken(app, box, set_id):
    spent = caller(app, 2)

    async def main():
        assert (await spent.post(as_json(set_id), "bought"))[0] == 200
        await asyncio.sleep(1.1)
        box.prepare = box.prepare_in_steps = None
        other = as_json(set_id, class_names=["other"])
        assert refused(await spent.post(other, "bought"), Code.IDEMPOTENCY_KEY_REUSED)

    asyncio.run(main())


def test_no_text_is_read_where_the_price_does_not_fit(app, box, set_id):
    box.prepare = box.prepare_in_steps = None
    poor = caller(app, 1)
    status, problem = asyncio.run(poor.post(as_json(set_id)))
    assert (status, problem["code"]) == (402, "budget_exhausted")
    assert problem["detail"] == "needs 2 queries, 1 remain: limit 1, used 0, held 0"


def test_a_budget_that_was_just_raised_is_seen(app, set_id):
    minted = mint(app, 0)
    poor = Caller(app, minted.token)

    async def main():
        assert refused(await poor.post(as_json(set_id)), Code.BUDGET_EXHAUSTED)
        services_of(app).keys.change(minted.key.id, queries_limit=5)
        status, reply = await poor.post(as_json(set_id))
        assert (status, reply["budgets"]["queries"]["used"]) == (200, 2)

    asyncio.run(main())


def test_a_key_that_was_just_revoked_is_told_so(app, set_id):
    minted = mint(app, 0)
    poor = Caller(app, minted.token)

    async def main():
        assert refused(await poor.post(as_json(set_id)), Code.BUDGET_EXHAUSTED)
        services_of(app).keys.revoke(minted.key.id)
        assert refused(await poor.post(as_json(set_id)), Code.INVALID_KEY)

    asyncio.run(main())


class Slow(StubBlackBox):
    """The stub, but a text takes 10 ms to tokenise."""

    steps = 0

    def prepare_in_steps(self, request, offsets):
        for _ in range(len(request.class_names) // 2):
            yield
            time.sleep(0.01)
            self.steps += 1
        return (yield from super().prepare_in_steps(request, offsets))


@pytest.fixture
def slow(settings):
    return Slow(card_limits(settings))


def test_hanging_up_ends_the_reading_of_texts(settings, slow):
    app = create_app(settings, slow)
    rich = caller(app, 10)
    images = services_of(app).images
    made = images.create_set("ann", [image.id for image in images.add("ann", [png(1)])], name="").id

    async def main():
        leave = asyncio.Event()
        body = as_json(made, class_names=[f"name {number}" for number in range(2000)])
        asking = asyncio.create_task(rich.post(body, leave=leave))
        while not slow.steps:
            await asyncio.sleep(0.01)
        leave.set()
        await asking
        done = slow.steps
        await asyncio.sleep(0.1)
        assert slow.steps <= done + 1 < 1000

    asyncio.run(main())


@pytest.mark.slow
def test_another_owners_purchase_waits_for_a_turn_not_for_all_texts(settings, slow):
    app = create_app(settings, slow)
    images, order = services_of(app).images, []
    sets = {}
    for owner in ("ann", "ben"):
        added = images.add(owner, [png(1)])
        sets[owner] = images.create_set(owner, [image.id for image in added], name="").id

    async def buy(owner, names, name):
        body = as_json(sets[owner], class_names=[f"name {number}" for number in range(names)])
        status, _ = await callers[owner].post(body, name)
        order.append((owner, status))

    callers = {owner: caller(app, 100, owner=owner) for owner in sets}

    async def main():
        many = [asyncio.create_task(buy("ann", 200, f"many {number}")) for number in range(3)]
        while not slow.steps:
            await asyncio.sleep(0.001)
        await buy("ben", 4, "few")
        await asyncio.gather(*many)

    asyncio.run(main())
    assert order[0] == ("ben", 200)


def test_device_turns_are_per_owner(app, box, set_id, monkeypatch):
    """A rich owner with many keys has one turn, not one for each key."""
    owners = []
    worker = services_of(app).logits._worker
    run = worker.run

    async def watched(tasks, **options):
        owners.extend(task.owner for task in tasks)
        return await run(tasks, **options)

    monkeypatch.setattr(worker, "run", watched)

    async def main():
        for number in range(3):
            assert (await caller(app, 10).post(as_json(set_id), f"{number}"))[0] == 200

    asyncio.run(main())
    assert set(owners) - {"the canary"} == {"ann"}


class Overflowing(StubBlackBox):
    """The stub, but a last prompt with large offsets gives no number."""

    scored = 0

    def encode_texts(self, pieces):
        self.scored += len(pieces)
        texts = super().encode_texts(pieces)
        for (prompts, run), text in zip(pieces, texts, strict=True):
            offsets = prompts.plan[1]
            if offsets is not None and np.abs(offsets[run]).max() > 100:
                text[-1] = np.nan
        return texts


def spoiling(set_id):
    offsets = np.zeros((3, 4, 16), np.float32)
    offsets[-1] = 500
    return soft_body(set_id, offsets)


@pytest.mark.parametrize("reply_bytes", [0, 2**20])
def test_numbers_that_overflow_are_the_clients(tmp_path, settings, caplog, reply_bytes):
    settings = settings.model_copy(update={"reply_bytes": reply_bytes})
    box = Overflowing(card_limits(settings))
    app = create_app(settings, box)
    images = services_of(app).images
    made = images.create_set("ann", [image.id for image in images.add("ann", [png(1)])], name="").id
    minted = mint(app, 5)
    rich, meter = Caller(app, minted.token), services_of(app).meter

    async def main():
        first = await rich.post(spoiling(made), "one", kind=TENSOR_MEDIA_TYPE)
        assert refused(first, Code.NON_FINITE_LOGITS)
        assert first[0] == 422
        used = meter.budgets(minted.key.id).queries
        assert (used.used, used.held) == (3, 0)
        scored = box.scored
        again = await rich.post(spoiling(made), "one", kind=TENSOR_MEDIA_TYPE)
        assert refused(again, Code.NON_FINITE_LOGITS)
        assert again[1]["detail"] == first[1]["detail"]
        assert (meter.budgets(minted.key.id).queries.used, box.scored) == (3, scored)
        assert meter.audit() == []
        await rich.post(as_json(made), "two")
        assert meter.budgets(minted.key.id).queries.used == 5

    asyncio.run(main())
    assert not [record for record in caplog.records if record.exc_info]


def test_offsets_beyond_the_cards_are_refused_unread(app, box, set_id):
    box.prepare = box.prepare_in_steps = None
    offsets = np.zeros((2, 4, 16), np.float32)
    offsets[1, 2, 3] = -1001
    rich = caller(app, 10)
    status, problem = asyncio.run(rich.post(soft_body(set_id, offsets), kind=TENSOR_MEDIA_TYPE))
    assert (status, problem["code"]) == (422, "invalid_request") or status == 400
    assert (
        "offsets[1, 2, 3] is -1001.0; every offset must be from -1000 to 1000" in problem["detail"]
    )


@pytest.mark.slow
def test_a_refusal_before_the_body_reaches_a_client_that_still_sends(app):
    token = mint(app, 0).token
    head = (
        f"POST /v1/logits HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n"
        f"Idempotency-Key: one\r\nContent-Type: application/json\r\n"
        f"Content-Length: {8 * MIB}\r\n\r\n"
    )
    with in_thread(app) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(20)
        connection.sendall(head.encode() + b"[" * MIB)
        answer = b""
        sender = threading.Thread(target=connection.sendall, args=(b"[" * (7 * MIB),))
        sender.start()
        while b"budget_exhausted" not in answer:
            piece = connection.recv(65536)
            assert piece
            answer += piece
        sender.join(20)
        assert not sender.is_alive()
        assert answer.startswith(b"HTTP/1.1 402")


def test_no_text_is_read_for_a_reply_that_has_no_room(app, set_id, monkeypatch):
    """Two hundred replays of a large reply at once are refused for their size, not tokenised."""
    services, read = services_of(app), []
    key = mint(app, 10)
    whose = CallerOf(key.key.id, key.key.owner)
    monkeypatch.setattr(services.logits._pricing, "plan", read.append)
    with services.replies.lease(whose, services.settings.key_replies_bytes):
        answer = asyncio.run(Caller(app, key.token).post(as_json(set_id)))
    assert refused(answer, Code.RATE_LIMITED)
    assert not read
    assert services.replies.held == 0
