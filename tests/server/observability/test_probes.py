"""Probes answer by state and clock, from a process that the server's work cannot delay."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from craft_server.observability.metrics import Metrics
from craft_server.observability.probe_process import (
    LOOP_SILENT_S,
    STORE_SILENT_S,
    State,
    away,
    dead,
    unready,
)
from craft_server.observability.probes import Health, answering
from craft_shared.errors import Code, Refusal

WELL = State(loop_at=100.0, store_at=100.0, busy_since=None, stalled_s=60.0, unready=None)


@pytest.mark.parametrize(
    ("state", "now", "alive", "ready"),
    [
        (WELL, 100.0, True, True),
        (WELL._replace(store_at=1000), 101 + LOOP_SILENT_S, False, False),
        (WELL, 101 + STORE_SILENT_S, True, False),
        (WELL._replace(busy_since=99.0), 100.0, True, True),
        (WELL._replace(busy_since=39.0), 100.0, False, False),
        (WELL._replace(unready="the canary failed"), 100.0, True, False),
    ],
    ids=["well", "silent loop", "silent store", "busy device", "hung device", "no canary"],
)
def test_what_is_alive_and_what_is_ready(state, now, alive, ready):
    assert (dead(state, now) is None, unready(state, now) is None) == (alive, ready)


def test_a_store_is_away_within_the_five_seconds_that_are_promised():
    asked_every_s = 1.0
    assert away(WELL, WELL.store_at + 5.0) is not None
    assert asked_every_s < STORE_SILENT_S < 5.0


def test_health_says_what_its_parts_said():
    busy_s = 0.0
    health = Health(stalled_s=60, busy_s=lambda: busy_s)
    health.check_alive()
    health.check_store()
    assert health.state().busy_since is None
    busy_s = 61.0
    with pytest.raises(Refusal, match="at one batch for 61 s") as refused:
        health.check_alive()
    assert refused.value.code is Code.NOT_READY
    busy_s = 0.0
    health.device_is("a test forward failed")
    assert health.state().unready == "a test forward failed"
    health.device_is(None)
    assert health.state().unready is None
    health.drain()
    assert health.state().unready == "the server is shutting down"


# --- the process --------------------------------------------------------------------------------


def ask(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def raw(port, request_line):
    """Everything that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(f"{request_line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return b"".join(iter(lambda: line.recv(65536), b""))


@contextmanager
def probes(health, *, metrics_port=1):
    with answering("127.0.0.1", 0, state=health.state, metrics_port=metrics_port) as port:
        end = time.monotonic() + 10
        while ask(port, "/livez")[0] != 200 and time.monotonic() < end:
            time.sleep(0.02)
        yield port


@pytest.fixture
def health():
    return Health(stalled_s=60, busy_s=lambda: 0.0)


@pytest.mark.slow
def test_the_process_answers_by_the_state_that_it_was_told(health):
    with probes(health) as port:
        assert ask(port, "/livez") == (200, {"status": "ok"})
        assert ask(port, "/readyz") == (200, {"status": "ok"})
        health.drain()
        end = time.monotonic() + 10
        while ask(port, "/readyz")[0] == 200 and time.monotonic() < end:
            time.sleep(0.05)
        status, said = ask(port, "/readyz")
        assert (status, said["detail"]) == (503, "the server is shutting down")
        assert ask(port, "/livez")[0] == 200
    with pytest.raises(OSError, match="refused"):
        ask(port, "/livez")


@pytest.mark.slow
def test_head_is_answered_as_get_without_its_body(health):
    with probes(health) as port:
        for path in ("/livez", "/readyz", "/livez?full=1"):
            head, body = raw(port, f"GET {path}").split(b"\r\n\r\n")
            assert json.loads(body) == {"status": "ok"}
            assert raw(port, f"HEAD {path}") == head + b"\r\n\r\n"
        health.drain()
        end = time.monotonic() + 10
        while b" 200 OK" in raw(port, "HEAD /readyz") and time.monotonic() < end:
            time.sleep(0.05)
        assert raw(port, "HEAD /readyz").startswith(b"HTTP/1.1 503 ")


@pytest.mark.slow
def test_head_of_the_metrics_is_their_get_without_its_body(health):
    with (
        Metrics("stub").listening("127.0.0.1", 0) as inner,
        probes(health, metrics_port=inner) as port,
    ):
        for path in ("/metrics", "/metrics?name[]=craft_holds", "/"):
            head, body = raw(port, f"GET {path}").split(b"\r\n\r\n", 1)
            asked, nothing = raw(port, f"HEAD {path}").split(b"\r\n\r\n", 1)
            assert b" 200 OK" in head.splitlines()[0] == asked.splitlines()[0]
            assert (bool(body), nothing) == (True, b"")


@pytest.mark.slow
def test_python_that_computes_does_not_delay_an_answer(health):
    """Held long in one call, Python's lock keeps every thread of the process waiting."""
    over, took = threading.Event(), []
    document = json.dumps([["x" * 8] * 1000] * 1000)  # about a tenth of a second in one call

    def compute():
        while not over.is_set():
            json.loads(document)

    with probes(health) as port:
        client = _client_process(port)
        threads = [threading.Thread(target=compute) for _ in range(3)]
        for thread in threads:
            thread.start()
        took = [float(line) for line in client.communicate(timeout=60)[0].split()]
        over.set()
        for thread in threads:
            thread.join()
    assert len(took) == 20
    assert sorted(took)[10] < 0.1


def _client_process(port):
    """Another process asks, since this one has no time to."""
    import subprocess
    import sys

    code = f"""
import time, urllib.request
time.sleep(0.5)
for _ in range(20):
    began = time.monotonic()
    urllib.request.urlopen("http://127.0.0.1:{port}/livez", timeout=30).read()
    print(time.monotonic() - began)
    time.sleep(0.02)
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_process_that_was_killed_is_started_again_on_its_port(health, monkeypatch):
    started = []
    from craft_server.observability import probes as module

    start = module._start

    def noted(*arguments):
        started.append(start(*arguments))
        return started[-1]

    monkeypatch.setattr(module, "_start", noted)
    with probes(health) as port:
        started[0][0].kill()
        started[0][0].wait()
        end = time.monotonic() + 30
        while len(started) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        while time.monotonic() < end:
            try:
                if ask(port, "/livez")[0] == 200:
                    break
            except OSError:
                time.sleep(0.05)
        assert ask(port, "/livez")[0] == 200


@pytest.mark.slow
def test_an_address_that_cannot_be_had_says_so(health, monkeypatch):
    from craft_server.observability import probe_process

    assert probe_process._BIND_S < 30
    with (
        pytest.raises(OSError, match=r"no probes and metrics on 192\.0\.2\.1:1"),
        answering("192.0.2.1", 1, state=health.state, metrics_port=1),
    ):
        pass  # pragma: no cover - never entered


@pytest.mark.slow
def test_half_a_request_keeps_nobody_waiting(health):
    with probes(health) as port:
        lines = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        for line in lines:
            line.sendall(b"GET /livez HTTP/1.1\r\n")
        assert ask(port, "/livez")[0] == 200
        for line in lines:
            line.close()
