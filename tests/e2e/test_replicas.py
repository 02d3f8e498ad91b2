"""Two real servers on one Postgres and one folder: one budget, one purchase, one set of images."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from craft_server.db.store import Store
from craft_server.metering.ledger import Ledger
from tests.support.databases import fresh_postgres
from tests.support.serving import image_set, running, text_request

ENDS_S = 60

pytestmark = pytest.mark.long


class Pair:
    """Replicas `a` and `b`, and a key of so many queries on both."""

    def __init__(self, stack, folder, queries, **settings):
        self.url = fresh_postgres()
        self.servers = [
            stack.enter_context(running(folder, database_url=self.url, replica=name, **settings))
            for name in ("a", "b")
        ]
        self.key = self.servers[0].mint(queries)
        self.clients = [stack.enter_context(server.client(self.key)) for server in self.servers]

    def stands(self):
        """Used and held, as replica `a` says."""
        budget = self.clients[0].get("/v1/key").json()["budgets"]["queries"]
        return budget["used"], budget["held"]

    def wait_until(self, stands):
        end = time.monotonic() + ENDS_S
        while self.stands() != stands:
            assert time.monotonic() < end, self.stands()
            time.sleep(0.02)

    def sold(self):
        """The ledger of all keys, by Idempotency-Key; it must balance."""
        store = Store(self.url)
        ledger = Ledger(store)
        assert ledger.audit() == []
        [key_id] = ledger.totals()
        events = ledger.events(key_id, limit=1000).events
        store.close()
        return sorted((event.request_id, event.queries) for event in events)


@pytest.fixture
def pair(tmp_path):
    with ExitStack() as stack:
        yield lambda queries, **settings: Pair(stack, tmp_path, queries, **settings)


def ask(client, request, name):
    return client.post("/v1/logits", json=request, headers={"Idempotency-Key": name})


def test_a_race_over_both_ends_at_exactly_the_limit(pair):
    both = pair(100)
    request = text_request(image_set(both.clients[0]), prompts=1)
    start = threading.Barrier(32)

    def buyer(number):
        with both.servers[number % 2].client(both.key) as own:
            start.wait()
            return [ask(own, request, f"{number}/{turn}").status_code for turn in range(6)]

    with ThreadPoolExecutor(32) as pool:
        codes = [code for codes in pool.map(buyer, range(32)) for code in codes]
    assert codes.count(200) == 100
    assert {200, 402} <= set(codes) <= {200, 402, 429}
    assert both.stands() == (100, 0)
    assert len(both.sold()) == 100


def test_the_same_purchase_at_both_at_once_is_charged_once(pair):
    both = pair(100, stub_seconds_per_query=0.05)
    request = text_request(image_set(both.clients[0]), prompts=2)
    for turn in range(10):
        start = threading.Barrier(2)

        def buy(client, start=start, turn=turn):
            start.wait()
            return ask(client, request, f"turn-{turn}")

        with ThreadPoolExecutor(2) as pool:
            first, second = sorted(pool.map(buy, both.clients), key=lambda r: r.status_code)
        assert first.status_code == 200
        if second.status_code == 200:
            assert {first.json()["replayed"], second.json()["replayed"]} == {False, True}
        else:
            assert (second.status_code, second.json()["code"]) == (409, "request_in_progress")
        again = [ask(client, request, f"turn-{turn}").json() for client in both.clients]
        assert [reply["replayed"] for reply in again] == [True, True]
        assert all(reply["logits"] == first.json()["logits"] for reply in again)
    assert both.stands() == (20, 0)
    assert both.sold() == sorted((f"turn-{turn}", 2) for turn in range(10))


def lose(both, request):
    """Kill replica `b` while it works on a purchase of 2 queries."""
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(ask, both.clients[1], request, "one")
        both.wait_until((0, 2))
        both.servers[1].kill()
        with pytest.raises(httpx.HTTPError):
            lost.result()
    assert both.stands() == (0, 2)


def ask_until_answered(client, request, name):
    """The reply, and how often it was not there yet."""
    end, refused = time.monotonic() + ENDS_S, 0
    while (reply := ask(client, request, name)).status_code == 409:
        assert time.monotonic() < end
        refused += 1
        time.sleep(0.05)
    return reply, refused


def test_the_holds_of_a_killed_replica_return_by_expiry_and_the_other_serves_the_retry(pair):
    both = pair(2, stub_seconds_per_query=2, hold_s=12, sweep_s=0.2)
    request = text_request(image_set(both.clients[0]), prompts=2)
    lose(both, request)
    other = ask(both.clients[0], text_request(request["image_set"], prompts=1), "other")
    assert (other.status_code, other.json()["code"]) == (429, "budget_held")
    reply, refused = ask_until_answered(both.clients[0], request, "one")
    assert (reply.status_code, reply.json()["replayed"]) == (200, False)
    assert refused > 0
    assert both.stands() == (2, 0)
    assert both.sold() == [("one", 2)]


def test_the_holds_of_a_killed_replica_return_when_it_restarts_and_the_others_stay(pair):
    both = pair(6, stub_seconds_per_query=2, hold_s=600)
    request = text_request(image_set(both.clients[0]), prompts=2)
    lose(both, request)
    with ThreadPoolExecutor(1) as pool:
        kept = pool.submit(ask, both.clients[0], request | {"tag": "other"}, "two")
        both.wait_until((0, 4))
        both.servers[1].start()
        assert both.stands() in {(0, 2), (2, 0)}
        assert kept.result().status_code == 200
    reply = ask(both.clients[1], request, "one")
    assert (reply.status_code, reply.json()["replayed"]) == (200, False)
    assert both.stands() == (4, 0)
    assert both.sold() == [("one", 2), ("two", 2)]


def test_images_uploaded_through_one_are_usable_through_the_other(pair):
    both = pair(10)
    first, second = both.clients
    request = text_request(image_set(first), prompts=2)
    there = ask(second, request, "b").json()
    here = ask(first, request, "a").json()
    assert there["logits"] == here["logits"]
    assert image_set(second) == request["image_set"]
    listed = second.get(f"/v1/image-sets/{request['image_set']}").json()
    assert listed["images"] == 3


def test_a_key_that_is_revoked_through_one_buys_nothing_from_either(pair):
    both = pair(10)
    request = text_request(image_set(both.clients[0]), prompts=1)
    codes = [ask(client, request, f"{n}").status_code for n, client in enumerate(both.clients)]
    assert codes == [200, 200]
    key_id = both.clients[0].get("/v1/key").json()["id"]
    both.servers[0].command("keys", "revoke", key_id)
    codes = [ask(client, request, f"{n}x").status_code for n, client in enumerate(both.clients)]
    assert codes == [401, 401]
    assert len(both.sold()) == 2
