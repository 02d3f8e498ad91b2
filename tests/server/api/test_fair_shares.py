"""One key takes its share of the server and no more: on real sockets, in front of a stub."""

import contextlib
import json
import logging
import socket
import sqlite3
import threading
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from craft_server.api.limits import connection_limits
from craft_server.api.services import services_of
from craft_server.app import create_app
from tests.support.serving import (
    image_set,
    in_thread,
    settings_in,
    soft_body,
    stub_box,
    tensor_headers,
    text_request,
)

pytestmark = pytest.mark.long

BAR_S = 10.0
"""What no onlooker's call may take; on a quiet machine each takes milliseconds."""


@contextlib.contextmanager
def serving(folder, **fields):
    """The whole application on a socket, with keys of two owners."""
    settings = settings_in(folder, **fields)
    app = create_app(settings, stub_box(settings))
    services = services_of(app)
    with in_thread(app, http=connection_limits(settings), loop="auto") as port:
        tokens = {name: services.keys.create(name, 10_000).token for name in ("ann", "bob")}
        with client(port, tokens["ann"]) as ann, client(port, tokens["bob"]) as bob:
            yield SimpleNamespace(port=port, services=services, tokens=tokens, ann=ann, bob=bob)


def client(port, token):
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False
    )


@contextlib.contextmanager
def onlooking(server):
    """Bob buys during the block: gives the seconds and the states of his purchases."""
    set_id = image_set(server.bob)
    seen, stop = [], threading.Event()

    def buy():
        while not stop.is_set():
            began = time.monotonic()
            reply = server.bob.post(
                "/v1/logits",
                json=text_request(set_id, prompts=1),
                headers={"Idempotency-Key": f"look {len(seen)}"},
            )
            assert server.bob.get("/livez").status_code == 200
            seen.append((time.monotonic() - began, reply.status_code))
            time.sleep(0.05)

    buying = threading.Thread(target=buy)
    buying.start()
    try:
        yield seen
    finally:
        stop.set()
        buying.join(60)


def is_well(seen):
    return len(seen) > 3 and {status for _, status in seen} == {200} and max(seen)[0] < BAR_S


def request_head(server, path, size, token="ann", **headers):
    fields = {
        "Authorization": f"Bearer {server.tokens[token]}",
        "Content-Length": size,
        "Content-Type": "application/json",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()


@contextlib.contextmanager
def lines_to(server, count):
    with contextlib.ExitStack() as opened:
        yield [
            opened.enter_context(socket.create_connection(("127.0.0.1", server.port), 60))
            for _ in range(count)
        ]


def status_of(line, timeout_s=0.0):
    """Of the reply that is here, or 0."""
    line.settimeout(timeout_s or 0.01)
    try:
        head = line.recv(64)
    except TimeoutError:
        return 0
    return int(head.split()[1])


def test_slow_bodies_of_one_key_leave_everybody_else_served(tmp_path):
    with serving(tmp_path) as server, lines_to(server, 500) as lines, onlooking(server) as seen:
        head = request_head(server, "/v1/logits", 1000, Content_Type="application/json")
        for line in lines:
            line.sendall(head + b"{")
        time.sleep(2)
        states = [status_of(line) for line in lines]
        with contextlib.ExitStack() as more:  # the newcomers find the lines of the refused closed
            for _ in range(100):
                line = socket.create_connection(("127.0.0.1", server.port), 60)
                more.enter_context(line).sendall(head + b"{")
            time.sleep(1)
        assert server.ann.get("/v1/key").status_code == 429
    assert is_well(seen), seen
    assert states.count(0) == 64
    assert states.count(429) == 500 - 64


def test_all_keys_of_an_owner_share_what_an_owner_may_hold(tmp_path):
    with serving(tmp_path, owner_connections=3) as server, lines_to(server, 2) as lines:
        server.tokens["ann 2"] = server.services.keys.create("ann", 1).token
        for line, token in zip(lines, ("ann", "ann 2"), strict=True):
            line.sendall(request_head(server, "/v1/images/missing", 10, token) + b"{")
        time.sleep(0.5)
        assert server.ann.get("/v1/key").status_code == 200
        with lines_to(server, 1) as (third,):
            third.sendall(request_head(server, "/v1/images/missing", 10) + b"{")
            time.sleep(0.5)
            refused = server.ann.get("/v1/key")
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert refused.headers["retry-after"] == "1"
            assert server.bob.get("/v1/key").status_code == 200


def test_a_slow_body_is_cut_by_the_least_rate(tmp_path):
    with serving(tmp_path, stall_s=0.5) as server, lines_to(server, 1) as (line,):
        line.sendall(request_head(server, "/v1/images/missing", 10) + b"{")
        assert status_of(line, 30) == 504


def large(server, name, classes=128):
    """A purchase whose reply is streamed: 300 prompts x 30 images x 128 classes."""
    set_id = image_set(server.ann, 30)
    offsets = np.zeros((300, 4, 16), np.float32)
    body = soft_body(set_id, offsets, class_names=[f"c{index}" for index in range(classes)])
    return body, tensor_headers(name)


def unread(server, name, lines, *, accept=None):
    """Ask for one large reply on each line and read nothing."""
    body, headers = large(server, name)
    headers = headers | ({"Accept": accept} if accept else {})
    bought = server.ann.post("/v1/logits", content=body, headers=headers)
    assert bought.status_code == 200, bought.text
    head = request_head(server, "/v1/logits", len(body), **headers)
    for line in lines:
        line.sendall(head + body)


@pytest.mark.parametrize("accept", [None, "application/json"])
def test_unread_replays_of_a_large_reply_leave_everybody_else_served(tmp_path, accept):
    with (
        serving(tmp_path, key_replies_bytes=2**25, queue=8, stall_s=20) as server,
        lines_to(server, 60) as lines,
        onlooking(server) as seen,
    ):
        for line in lines:  # little room on the way, so that replies stay where they come from
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        unread(server, "large", lines, accept=accept)
        time.sleep(3)
        assert server.services.replies.held <= 2**25
        states = [status_of(line) for line in lines]
    assert is_well(seen), seen
    assert 1 <= states.count(200) < 20
    assert states.count(429) > 40


def test_an_unread_reply_is_cut_and_its_memory_given_back_and_it_can_be_had_again(tmp_path):
    with serving(tmp_path, stall_s=1) as server, lines_to(server, 1) as (line,):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        unread(server, "large", [line])
        end = time.monotonic() + 30
        while not server.services.replies.held and time.monotonic() < end:
            time.sleep(0.05)
        assert server.services.replies.held
        while server.services.replies.held and time.monotonic() < end:
            time.sleep(0.05)
        assert server.services.replies.held == 0
        assert server.services.requests.held == 0
        body, headers = large(server, "large")
        again = server.ann.post("/v1/logits", content=body, headers=headers)
        assert again.headers["idempotent-replayed"] == "true"
        used = server.ann.get("/v1/key").json()["budgets"]["queries"]
        assert (used["used"], used["held"]) == (300, 0)


def test_an_unread_whole_reply_counts_until_it_is_read(tmp_path):
    """One million logits as JSON, in one piece for uvicorn: 20 MB that would wait in its buffer."""
    with serving(tmp_path) as server, lines_to(server, 1) as (line,):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        set_id = image_set(server.ann, 30)
        names = [f"c{index}" for index in range(100)]
        body = soft_body(set_id, np.zeros((300, 4, 16), np.float32), class_names=names)
        head = request_head(
            server, "/v1/logits", len(body), **tensor_headers("one", Accept="application/json")
        )
        line.sendall(head + body)
        line.settimeout(30)
        assert line.recv(12) == b"HTTP/1.1 200"
        assert server.services.replies.held == 900_000 * 20
        assert server.services.requests.held == 1
        found = b""
        while not found.endswith(b"]]]}"):
            found += line.recv(2**20)
        logits = json.loads(found.split(b"\r\n\r\n")[1])["logits"]
        assert np.shape(logits) == (300, 30, 100)
        time.sleep(0.2)
        assert (server.services.replies.held, server.services.requests.held) == (0, 0)


def test_readers_of_large_pages_leave_everybody_else_served(tmp_path):
    with serving(tmp_path) as server, onlooking(server) as seen:
        set_id = image_set(server.ann)
        request = text_request(set_id, prompts=1)
        reply = server.ann.post("/v1/logits", json=request, headers={"Idempotency-Key": "one"})
        assert reply.status_code == 200
        copy_ledger(tmp_path, 10_000)
        states = []

        def read():
            with client(server.port, server.tokens["ann"]) as reading:
                for _ in range(3):
                    page = reading.get("/v1/usage/events?limit=10000")
                    states.append((page.status_code, len(page.content)))

        threads = [threading.Thread(target=read) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert is_well(seen), seen
    assert {status for status, _ in states} == {200, 429}
    assert max(states)[0] == 429
    assert max(size for status, size in states if status == 200) > 10**6


def copy_ledger(folder, count):
    """Make `count` lines of the ledger from Ann's first one, of requests that never were."""
    with contextlib.closing(sqlite3.connect(folder / "craft.db")) as ledger, ledger:
        columns = [row[1] for row in ledger.execute("PRAGMA table_info(ledger)") if row[1] != "id"]
        values = ["request_id || n" if name == "request_id" else name for name in columns]
        ledger.execute(
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?) "
            f"INSERT INTO ledger ({', '.join(columns)}) SELECT {', '.join(values)} FROM c, "
            "(SELECT ledger.* FROM ledger JOIN keys ON key_id = keys.id "
            "WHERE owner = 'ann' ORDER BY ledger.id LIMIT 1)",
            (count,),
        )


def test_a_body_whose_client_leaves_is_the_clients_in_log_and_metrics(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with serving(tmp_path) as server:
        for path, kind in (
            ("/v1/logits", "application/json"),
            ("/v1/images/missing", "application/json"),
            ("/v1/images", "multipart/form-data; boundary=x"),
        ):
            with lines_to(server, 1) as (line,):
                line.sendall(request_head(server, path, 1000, Content_Type=kind) + b"--x")
                time.sleep(0.3)
        time.sleep(0.5)
        counted = server.services.metrics.registry.get_sample_value
        for path in ("/v1/logits", "/v1/images/missing", "/v1/images"):
            labels = {"method": "POST", "route": path, "status": "499"}
            assert counted("craft_http_requests_total", labels) == 1
        assert server.services.requests.held == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "Traceback" not in caplog.text
