"""Two servers that share a Postgres and a place for image bytes, and no folder: one shop."""

from contextlib import ExitStack

import numpy as np
import pytest

from craft_server.db.store import Store
from craft_server.metering.ledger import Ledger
from craft_shared import wire
from tests.support.databases import fresh_postgres
from tests.support.serving import image_set, running, soft_body, tensor_headers, text_request

OFFSETS = np.random.default_rng(0).normal(size=(3, 4, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Servers A and B; each keeps what is its own in a folder of its own."""
    database, shared = fresh_postgres(), tmp_path_factory.mktemp("shared")
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                running(
                    tmp_path_factory.mktemp(name),
                    database_url=database,
                    image_url=f"file://{shared}/images",
                    replica=name,
                )
            )
            for name in ("a", "b")
        ]


@pytest.fixture
def clients(hosts):
    """A client of each with one key, which A made."""
    a, b = hosts
    key = a.mint(100)
    with a.client(key) as at_a, b.client(key) as at_b:
        yield at_a, at_b


def test_what_a_took_b_sells_and_what_b_sold_a_replays(clients):
    at_a, at_b = clients
    body = soft_body(image_set(at_a, 3), OFFSETS)
    sold = at_b.post("/v1/logits", content=body, headers=tensor_headers("one"))
    again = at_a.post("/v1/logits", content=body, headers=tensor_headers("one"))
    for reply in (sold, again):
        assert reply.status_code == 200, reply.text
    first, logits = wire.decode_reply(sold.content)
    second, same = wire.decode_reply(again.content)
    assert (first.replayed, second.replayed) == (False, True)
    np.testing.assert_array_equal(logits, same)


def test_a_budget_spent_at_a_is_spent_at_b_and_the_ledger_is_one(clients, hosts):
    at_a, at_b = clients
    set_id = image_set(at_a, 2)
    for number, client in enumerate((at_a, at_b, at_b)):
        headers = {"Idempotency-Key": str(number)}
        reply = client.post("/v1/logits", json=text_request(set_id, prompts=5), headers=headers)
        assert reply.status_code == 200, reply.text
    for client in clients:
        assert client.get("/v1/key").json()["budgets"]["queries"]["used"] == 15
        assert client.get("/v1/usage").json()["buckets"][0]["counters"]["queries"] == 15
    store = Store(hosts[0].env["CRAFT_SERVER_DATABASE_URL"])
    assert Ledger(store).audit() == []
    store.close()


def test_an_image_sent_to_a_need_not_be_sent_to_b_and_a_set_made_at_b_stands_at_a(clients):
    at_a, at_b = clients
    set_id = image_set(at_a, 4)
    assert image_set(at_b, 4) == set_id
    assert (
        at_b.get(f"/v1/image-sets/{set_id}").json() == at_a.get(f"/v1/image-sets/{set_id}").json()
    )


def test_each_keeps_its_own_encodings_and_neither_the_images(clients, hosts):
    at_a, at_b = clients
    set_id = image_set(at_a, 3)
    for number, client in enumerate((at_a, at_b)):
        headers = {"Idempotency-Key": f"encode {number}"}
        assert client.post("/v1/logits", json=text_request(set_id), headers=headers).is_success
    for host in hosts:
        assert (host.folder / "features.db").exists()
        assert not (host.folder / "images").exists()
        assert not (host.folder / "craft.db").exists()


def test_a_key_revoked_at_a_opens_nothing_at_b(hosts):
    a, b = hosts
    key = a.mint(10)
    with b.client(key) as at_b:
        identifier = at_b.get("/v1/key").json()["id"]
        a.command("keys", "revoke", identifier)
        assert at_b.get("/v1/key").status_code == 401
