"""Requests without a good key: answered in turns, whatever they ask, and probes at once."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from craft_server.accounts.shares import Caller
from craft_server.api.services import services_of


@pytest.fixture
def turns(app, monkeypatch):
    taken = []

    async def turn(owner):
        taken.append(owner)

    monkeypatch.setattr(services_of(app).pacing, "turn", turn)
    return taken


@pytest.mark.parametrize("path", ["/v1/key", "/nothing", "/openapi.json", "/v1/images"])
def test_whoever_has_no_key_takes_a_turn_of_nobody(client, turns, path):
    client.headers.pop("Authorization", None)
    client.get(path)
    assert turns == [""]


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_take_none(client, turns, path):
    client.headers.pop("Authorization", None)
    told, head = client.get(path), client.head(path)
    assert (told.status_code, head.status_code) == (200, 200)
    assert head.headers["content-length"] == str(len(told.content))
    assert turns == []


def test_a_key_takes_a_turn_of_its_owner(client, turns):
    assert client.get("/v1/key").status_code == 200
    (owner,) = turns
    assert owner


def test_the_document_is_made_once(app):
    assert app.openapi() is app.openapi()


def test_who_has_more_requests_than_its_share_loses_its_connection(app, client):
    services = services_of(app)
    owner = client.get("/v1/key").json()["owner"]
    key_id = client.get("/v1/key").json()["id"]
    with services.requests.lease(Caller(key_id, owner), 64):
        reply = client.get("/v1/key")
    assert (reply.status_code, reply.json()["code"]) == (429, "rate_limited")
    assert reply.headers["connection"] == "close"
    assert "connection" not in client.get("/v1/key").headers


def test_a_rate_is_no_way_around_a_turn(app, client, turns, monkeypatch):
    services = services_of(app)
    monkeypatch.setattr(services.rate_limiter, "_per_minute", 1)
    codes = [client.get("/v1/key").status_code for _ in range(3)]
    assert codes == [200, 429, 429]
    assert len(turns) == 3


def test_strangers_who_wait_keep_nobody_from_beginning(app, client, monkeypatch):
    """Twenty of them wait, with tokens of their own, and a key is answered at once."""
    over = threading.Event()

    async def turn(owner):
        while not owner and not over.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(services_of(app).pacing, "turn", turn)
    with ThreadPoolExecutor(20) as pool:
        asked = [
            pool.submit(client.get, "/v1/key", headers={"Authorization": f"Bearer craft_{number}"})
            for number in range(20)
        ]
        assert client.get("/v1/key").status_code == 200
        over.set()
        assert {reply.result().status_code for reply in asked} == {401}
