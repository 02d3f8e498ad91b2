"""Replies larger than a block leave block by block: the same bytes, the same price, no place."""

import asyncio
import threading

import numpy as np
import pytest
from fastapi.testclient import TestClient

from craft_server.accounts.shares import NOBODY
from craft_server.api.limits import writing_turns
from craft_server.api.responses import Writer
from craft_server.api.services import services_of
from craft_server.app import card_limits, create_app
from craft_server.logits import scoring
from craft_server.models.stub import StubBlackBox
from craft_shared.errors import Code
from craft_shared.messages import LogitsReply, LogitsRequest
from craft_shared.wire import decode_reply
from tests.support.serving import (
    image_set,
    png,
    settings_in,
    soft_body,
    tensor_headers,
    text_request,
)

pytestmark = pytest.mark.slow  # the whole boundary

OFFSETS = np.random.default_rng(0).normal(size=(5, 4, 16)).astype(np.float32)


class FailingBox(StubBlackBox):
    """The stub, failing at the products after the first `good` ones, waiting while not `go`."""

    good = 10**9

    def __init__(self, *arguments, **fields):
        super().__init__(*arguments, **fields)
        self.go = threading.Event()
        self.go.set()

    def logits(self, *arguments, **where):
        self.go.wait(10)
        self.good -= 1
        if self.good < 0:
            raise RuntimeError("the device is gone")
        return super().logits(*arguments, **where)


@pytest.fixture
def box(tmp_path):
    return FailingBox(card_limits(settings_in(tmp_path)))


@pytest.fixture
def app(tmp_path, box):
    return create_app(settings_in(tmp_path, queue=1), box)


@pytest.fixture
def client(app):
    with TestClient(app, raise_server_exceptions=False) as client:
        token = services_of(app).keys.create("ann", 1000).token
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


@pytest.fixture(params=[2, 7, 15])
def small_blocks(request, monkeypatch):
    """Blocks of less than a row, of some rows, and of a whole prompt and more."""

    def shrink():
        monkeypatch.setattr(scoring, "BLOCK_LOGITS", request.param)

    return shrink


def buy(client, set_id, name, **fields):
    body = soft_body(set_id, OFFSETS, **fields)
    return client.post("/v1/logits", content=body, headers=tensor_headers(name))


def spent(client):
    budget = client.get("/v1/key").json()["budgets"]["queries"]
    return budget["used"], budget["held"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16"])
def test_tensors_in_blocks_are_the_whole_replys(client, small_blocks, dtype):
    set_id = image_set(client, 3)
    _, whole = decode_reply(buy(client, set_id, "whole", dtype=dtype).content)
    small_blocks()
    reply = buy(client, set_id, "blocks", dtype=dtype)
    message, logits = decode_reply(reply.content)
    assert int(reply.headers["content-length"]) == len(reply.content)
    assert logits.any()
    assert (message.cost.queries, reply.headers["x-query-cost"]) == (5, "5")
    np.testing.assert_array_equal(logits, whole)
    assert spent(client) == (10, 0)


def test_json_in_blocks_is_the_whole_replys(client, small_blocks):
    request, headers = text_request(image_set(client, 3)), {"Idempotency-Key": "whole"}
    whole = client.post("/v1/logits", json=request, headers=headers)
    small_blocks()
    blocks = client.post("/v1/logits", json=request, headers={"Idempotency-Key": "blocks"})
    assert blocks.json()["logits"] == whole.json()["logits"]
    assert LogitsReply.model_validate(blocks.json()).cost.queries == 2


def test_a_replay_in_blocks_is_free_and_known_to_be_the_same(client, small_blocks, caplog):
    set_id = image_set(client, 3)
    small_blocks()
    first, second = buy(client, set_id, "one"), buy(client, set_id, "one")
    assert second.headers["idempotent-replayed"] == "true"
    np.testing.assert_array_equal(*(decode_reply(reply.content)[1] for reply in (first, second)))
    assert spent(client) == (5, 0)
    assert "differs" not in caplog.text


def test_a_replay_in_blocks_that_drifted_is_logged(client, box, small_blocks, caplog):
    set_id = image_set(client, 3)
    small_blocks()
    buy(client, set_id, "one")
    box._mixing = box._mixing + 1
    buy(client, set_id, "one")
    assert "differs from what was sold" in caplog.text


def test_a_device_that_fails_before_the_texts_are_done_charges_nothing(client, box, small_blocks):
    set_id = image_set(client, 3)
    small_blocks()
    box.good = 0
    assert buy(client, set_id, "one").status_code == 500
    box.good = 10**9
    assert spent(client) == (0, 0)


def test_a_reply_cut_short_is_paid_and_can_be_had_again(client, box, monkeypatch):
    set_id = image_set(client, 3)
    monkeypatch.setattr(scoring, "BLOCK_LOGITS", 2)
    box.good = 4
    client._transport.raise_server_exceptions = True
    with pytest.raises(RuntimeError, match="gone"):
        buy(client, set_id, "one")
    box.good = 10**9
    again = buy(client, set_id, "one")
    assert decode_reply(again.content)[1].shape == (5, 3, 2)
    assert spent(client) == (5, 0)


async def written(reply, shop, *, deadline_s):
    turns = writing_turns(services_of(shop.app).settings)
    return await Writer(NOBODY, turns, deadline_s=deadline_s).response(reply, tensors=True)


class Shop:
    """A service with one place, and a request of many blocks."""

    def __init__(self, folder, box, queue=1):
        self.app = create_app(settings_in(folder, queue=queue), box)
        services = services_of(self.app)
        self.service = services.logits
        self.key = services.keys.verify(services.keys.create("ann", 100).token)
        images = services.images.add("ann", [png(1), png(2)])
        made = services.images.create_set("ann", [image.id for image in images], name="")
        self.request = LogitsRequest.model_validate(text_request(made.id))

    async def buy(self, name):
        quote = await self.service.price(self.key, self.request, offsets=None, idempotency_key=name)
        return await self.service.buy(await self.service.plan(quote))


@pytest.fixture
def shop(tmp_path, box, monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK_LOGITS", 2)
    return Shop(tmp_path, box)


def test_a_reply_that_nobody_reads_takes_no_place_from_others(shop):
    async def main():
        unread = await shop.buy("one")
        await shop.buy("two")
        unread.close()

    asyncio.run(main())


def test_free_replays_that_are_computed_again_have_a_share(tmp_path, box, monkeypatch):
    """Whoever bought one large reply must not crowd paid work out with replays of it."""
    monkeypatch.setattr(scoring, "BLOCK_LOGITS", 2)
    shop = Shop(tmp_path, box, queue=10)

    async def main():
        (await shop.buy("one")).close()
        box.go.clear()
        replays = [asyncio.create_task(shop.buy("one")) for _ in range(5)]
        await asyncio.wait(replays, timeout=0.3)
        refused = [task.exception() for task in replays if task.done()]
        assert [error.code for error in refused] == [Code.RATE_LIMITED] * 3
        assert all(error.retry_after_s for error in refused)
        box.go.set()
        for task in replays:
            if not task.done():
                (await task).close()
        (await shop.buy("one")).close()

    asyncio.run(main())


def test_a_drain_waits_for_a_streamed_reply_that_is_leaving(shop):
    async def main():
        reply = await shop.buy("one")
        draining = asyncio.create_task(shop.service.drain(10))
        await asyncio.sleep(0.01)
        assert not draining.done()
        blocks = [block async for block in reply.blocks()]
        assert sum(block.size for block in blocks) == 8
        reply.close()
        await draining

    asyncio.run(main())


def test_a_reader_that_is_too_slow_is_cut_off_and_gives_its_place_up(shop, caplog):
    async def never(_):
        await asyncio.Event().wait()

    async def main():
        response = await written(await shop.buy("one"), shop, deadline_s=0.01)
        await response({"type": "http"}, never, never)
        await shop.buy("two")

    asyncio.run(main())
    assert "cut off" in caplog.text


def test_nothing_more_is_computed_for_a_reader_that_hung_up(shop, box):
    sent = []

    async def send(message):
        sent.append(message)
        await asyncio.sleep(0)

    async def receive():
        while len(sent) < 3:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def main():
        response = await written(await shop.buy("one"), shop, deadline_s=10)
        box.good = 2  # the third product of four would fail
        await response({"type": "http"}, receive, send)
        await shop.buy("two")

    asyncio.run(main())
    assert [message.get("more_body") for message in sent] == [None, True, True]
