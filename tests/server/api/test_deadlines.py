"""A request has an answer when its time is over, whatever it waits for."""

import asyncio
import threading

import pytest

from craft_server.api.services import services_of


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"deadline_s": 0.2})


def test_a_part_that_hangs_keeps_no_client(app, client, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(services_of(app).meter, "budgets", lambda _: over.wait(30))
    reply = client.get("/v1/key")
    over.set()
    assert reply.status_code == 504
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["retry-after"]
    assert reply.headers["x-request-id"]
    assert reply.json()["code"] == "deadline_exceeded"


@pytest.mark.slow
def test_calls_that_wait_behind_one_that_hangs_are_refused_without_being_made(
    app, client, monkeypatch
):
    over, made = threading.Event(), []

    def hang(*_):
        made.append(1)
        over.wait(30)

    monkeypatch.setattr(services_of(app).images, "describe_set", hang)
    path = f"/v1/image-sets/set_{'0' * 32}"
    replies = [client.get(path) for _ in range(4)]  # more than an owner has threads
    key = client.get("/v1/key")  # another kind
    over.set()
    codes = [reply.json()["code"] for reply in replies]
    assert codes == ["deadline_exceeded"] * 4
    assert (len(made), key.status_code) == (2, 200)  # the last thread is for other owners


@pytest.mark.slow
def test_a_reply_that_has_begun_goes_on(settings):
    from craft_server.api.deadlines import Deadlines

    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(1)
        await send({"type": "http.response.body", "body": b"late"})

    async def send(message):
        sent.append(message["type"])

    asyncio.run(Deadlines(app, seconds=0.1)({"type": "http"}, None, send))
    assert sent == ["http.response.start", "http.response.body"]
