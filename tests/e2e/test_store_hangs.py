"""A store or a device that hangs: nobody waits past the deadline, and the probes say so."""

import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import pytest

from craft_server.db.store import Store
from craft_server.metering.ledger import Ledger
from tests.e2e.test_server_process import wait_until_it_stands
from tests.support.databases import fresh_postgres, frozen_postgres
from tests.support.serving import free_port, image_set, running, text_request

DEADLINE_S = 5
OVER_S = 1.0
"""What a request may take beyond its deadline."""
RED_S = 5.0
"""When readiness has noticed."""
FROZEN_S = float(os.environ.get("FROZEN_S", "20"))
ASKERS = 12

pytestmark = pytest.mark.long


def ask(client, request, name):
    return client.post("/v1/logits", json=request, headers={"Idempotency-Key": name})


class Asker:
    """A client that buys one query after another, and keeps what came of each."""

    def __init__(self, server, key, request, number, until):
        self.seconds = []
        self.bought = {}
        self.refused = {}
        with server.client(key) as client:
            turn = 0
            while not until.is_set():
                name = f"{number}/{turn}"
                began = time.monotonic()
                reply = ask(client, request, name)
                self.seconds.append(time.monotonic() - began)
                if reply.status_code == 200:
                    self.bought[name] = reply.json()["logits"]
                else:
                    self.refused[name] = reply.json()["code"]
                turn += 1


def probe(port, path):
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5)


def wait_for(port, path, status, *, seconds):
    end = time.monotonic() + seconds
    while probe(port, path).status_code != status:
        assert time.monotonic() < end, f"{path} is not {status} after {seconds} s"
        time.sleep(0.1)


class Campaign:
    """Clients that go on asking while the store hangs, and what must be true afterwards."""

    def __init__(self, server):
        self.server = server
        self.key = server.mint(100_000)
        with server.client(self.key) as client:
            self.request = text_request(image_set(client), prompts=1)
        self.over = threading.Event()
        self.pool = ThreadPoolExecutor(ASKERS)
        self.asking = [
            self.pool.submit(Asker, server, self.key, self.request, number, self.over)
            for number in range(ASKERS)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.over.set()
        self.pool.shutdown()

    def end(self):
        """Stop asking; nothing that was asked for is lost, doubled or kept from being bought."""
        self.over.set()
        askers = [each.result() for each in self.asking]
        assert max(second for asker in askers for second in asker.seconds) < DEADLINE_S + OVER_S
        codes = {code for asker in askers for code in asker.refused.values()}
        assert codes
        assert codes <= {"not_ready", "deadline_exceeded"}
        with self.server.client(self.key) as client:
            for asker in askers:
                for name in asker.refused:  # none is kept from being bought
                    assert ask(client, self.request, name).status_code == 200
                for name, logits in asker.bought.items():
                    again = ask(client, self.request, name).json()
                    assert (again["replayed"], again["logits"]) == (True, logits)
            budget = client.get("/v1/key").json()["budgets"]["queries"]
        names = {name for asker in askers for name in asker.refused | asker.bought}
        assert (budget["used"], budget["held"]) == (len(names), 0)


def test_while_postgres_is_frozen_nobody_waits_past_the_deadline_and_nothing_is_lost(tmp_path):
    url, port = fresh_postgres(), free_port()
    settings = {"deadline_s": DEADLINE_S, "metrics_port": port, "sweep_s": 1}
    with running(tmp_path, database_url=url, **settings) as server, Campaign(server) as campaign:
        time.sleep(1)
        with frozen_postgres():
            began = time.monotonic()
            wait_for(port, "/readyz", 503, seconds=RED_S)
            assert probe(port, "/livez").status_code == 200
            assert "store" in probe(port, "/readyz").json()["detail"]
            time.sleep(max(0, FROZEN_S - (time.monotonic() - began)))
        wait_for(port, "/readyz", 200, seconds=30)
        time.sleep(3)  # what was held is given back
        campaign.end()
        store = Store(url)
        assert Ledger(store).audit() == []
        store.close()


def test_while_sqlite_is_locked_nobody_waits_past_the_deadline_and_nothing_is_lost(tmp_path):
    with running(tmp_path, deadline_s=DEADLINE_S) as server, Campaign(server) as campaign:
        with closing(sqlite3.connect(tmp_path / "craft.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(2.5 * DEADLINE_S)
        time.sleep(3)
        campaign.end()
        store = server.store()
        assert Ledger(store).audit() == []
        store.close()


def test_a_device_that_hangs_turns_liveness_red_after_its_time_and_green_when_it_goes_on(
    tmp_path,
):
    port = free_port()
    hangs = {"stub_seconds_per_query": 12, "device_stalled_s": 3, "metrics_port": port}
    with running(tmp_path, **hangs) as server:
        key = server.mint(10)
        with server.client(key) as client, ThreadPoolExecutor(1) as pool:
            request = text_request(image_set(client), prompts=1)
            hung = pool.submit(ask, client, request, "one")
            wait_until_it_stands(client, (0, 1))
            assert probe(port, "/livez").status_code == 200
            wait_for(port, "/livez", 503, seconds=9)
            assert "the device has been at one batch for" in probe(port, "/livez").json()["detail"]
            assert client.get("/livez").status_code == 503
            assert probe(port, "/readyz").status_code == 503
            assert hung.result().status_code == 200
            wait_for(port, "/livez", 200, seconds=9)
            wait_for(port, "/readyz", 200, seconds=20)
