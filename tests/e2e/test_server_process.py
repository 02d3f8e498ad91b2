"""The real server program under load, kills and lost replies: nothing lost, doubled, overshot."""

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import httpx
import pytest

from craft_server.metering.ledger import Ledger
from tests.support.serving import free_port, image_set, running, text_request


def ask(client, request, key):
    return client.post("/v1/logits", json=request, headers={"Idempotency-Key": key})


def stands(client):
    budget = client.get("/v1/key").json()["budgets"]["queries"]
    return budget["used"], budget["held"]


def wait_until_it_stands(client, used_and_held, *, seconds=30):
    """Poll the key until it stands so; the last look is the assertion."""
    end = time.monotonic() + seconds
    while stands(client) != used_and_held and time.monotonic() < end:
        time.sleep(0.02)
    assert stands(client) == used_and_held


def wait_until_at_least(metrics_port, gauge, value, *, seconds=60):
    """Poll a gauge of the server's until it is so high; the last look is the assertion."""
    end = time.monotonic() + seconds
    while True:
        text = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
        found = float(re.search(rf"^{gauge} (\S+)$", text, re.MULTILINE)[1])
        if found >= value or time.monotonic() > end:
            break
        time.sleep(0.02)
    assert found >= value


def assert_books_balance(server, client):
    """sum(ledger) == used, nothing held: as the meter's own audit and the API both see it."""
    store = server.store()
    assert Ledger(store).audit() == []
    store.close()
    used, held = stands(client)
    counters = client.get("/v1/usage").json()["buckets"]
    assert held == 0
    assert used == (counters[0]["counters"]["queries"] if counters else 0)


def test_64_clients_on_one_key_overshoot_by_nothing(tmp_path):
    with running(tmp_path, queue=200) as server:
        key = server.mint(100)
        with server.client(key) as client:
            request = text_request(image_set(client), prompts=1)
            start = threading.Barrier(64)

            def buyer(number):
                with server.client(key) as own:
                    start.wait()
                    return [ask(own, request, f"{number}/{turn}").status_code for turn in range(4)]

            with ThreadPoolExecutor(64) as pool:
                codes = [code for codes in pool.map(buyer, range(64)) for code in codes]
            assert codes.count(200) == 100
            assert set(codes) == {200, 402, 429} or set(codes) == {200, 402}
            assert stands(client) == (100, 0)
            assert_books_balance(server, client)


def test_64_clients_with_one_idempotency_key_pay_once(tmp_path):
    with running(tmp_path, queue=200) as server:
        key = server.mint(100)
        with server.client(key) as client:
            request = text_request(image_set(client), prompts=2)

            def buyer(_):
                with server.client(key) as own:
                    reply = ask(own, request, "the same")
                    while reply.status_code == 409:
                        time.sleep(0.05)
                        reply = ask(own, request, "the same")
                    return reply.json()["logits"]

            with ThreadPoolExecutor(64) as pool:
                logits = list(pool.map(buyer, range(64)))
            assert all(each == logits[0] for each in logits)
            assert stands(client) == (2, 0)
            assert_books_balance(server, client)


def test_a_server_killed_while_it_works_charges_nothing_and_serves_the_retry(tmp_path):
    with running(tmp_path, stub_seconds_per_query=1) as server:
        key = server.mint(10)
        with server.client(key) as client:
            request = text_request(image_set(client), prompts=2)
            with ThreadPoolExecutor(1) as pool:
                lost = pool.submit(ask, client, request, "one")
                wait_until_it_stands(client, (0, 2))
                server.kill()
                with pytest.raises(httpx.HTTPError):
                    lost.result()
            server.start()
            assert stands(client) == (0, 0)
            reply = ask(client, request, "one")
            assert (reply.status_code, reply.json()["replayed"]) == (200, False)
            assert stands(client) == (2, 0)
            assert_books_balance(server, client)


def test_a_reply_lost_after_the_sale_is_replayed_free_also_after_a_kill(tmp_path):
    with running(tmp_path) as server:
        key = server.mint(10)
        with server.client(key) as client:
            request = text_request(image_set(client), prompts=2)
            sold = ask(client, request, "one").json()
            server.kill()
            server.start()
            again = ask(client, request, "one").json()
            assert (again["replayed"], again["logits"]) == (True, sold["logits"])
            assert stands(client) == (2, 0)
            assert_books_balance(server, client)


def test_a_client_that_hangs_up_in_the_queue_is_dropped_and_not_charged(tmp_path):
    # The device works long enough for a starved machine to notice the hang-up meanwhile.
    metrics = free_port()
    with running(tmp_path, stub_seconds_per_query=10, metrics_port=metrics) as server:
        key = server.mint(10)
        second = HTTPConnection("127.0.0.1", server.port)
        with server.client(key) as client, ThreadPoolExecutor(1) as pool:
            images = image_set(client)
            first = pool.submit(ask, client, text_request(images, prompts=1), "one")
            # A hold says nothing of turns: one request can pass the other while images are encoded,
            # which takes milliseconds. What is on the device for a second are the first's texts.
            wait_until_at_least(metrics, "craft_device_busy_seconds", 1)
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            body = json.dumps(text_request(images, prompts=2))
            second.request("POST", "/v1/logits", body, headers | {"Idempotency-Key": "two"})
            wait_until_at_least(metrics, "craft_queue_works", 1)
            assert stands(client) == (0, 3)
            second.close()
            wait_until_it_stands(client, (0, 1))  # before the device came to it
            assert first.result().status_code == 200
            wait_until_it_stands(client, (1, 0))
            assert_books_balance(server, client)


def test_sigterm_finishes_what_runs_and_exits_cleanly(tmp_path):
    with running(tmp_path, stub_seconds_per_query=1) as server:
        key = server.mint(10)
        with server.client(key) as client, ThreadPoolExecutor(1) as pool:
            request = text_request(image_set(client), prompts=2)
            running_call = pool.submit(ask, client, request, "one")
            wait_until_it_stands(client, (0, 2))
            assert server.stop() in {0, -15}
            assert running_call.result().status_code == 200
        server.start()
        with server.client(key) as client:
            assert stands(client) == (2, 0)
            assert_books_balance(server, client)


def test_half_a_request_and_a_silent_socket_hurt_nobody(tmp_path):
    with running(tmp_path) as server:
        key = server.mint(10)
        sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for each in sockets[:10]:
            each.sendall(b"POST /v1/logits HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        with server.client(key) as client:
            request = text_request(image_set(client), prompts=2)
            assert ask(client, request, "one").status_code == 200
            for each in sockets:
                each.close()
            assert ask(client, request, "two").status_code == 200
            assert_books_balance(server, client)
