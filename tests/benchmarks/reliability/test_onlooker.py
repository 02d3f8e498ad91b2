"""What the onlooker counts: failures, percentiles, and nothing that an outage explains."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.reliability.onlooker import Onlooker, Request, seen


def bought(seconds, status=200, *, due=0.0, code=""):
    return Request("buy", due, seconds, status, code)


def test_the_percentile_is_of_purchases_and_a_failed_probe_took_for_ever():
    requests = [bought(0.01)] * 98 + [bought(0.5), bought(3.0)]
    probes = [Request("probe", 0.0, 0.02, 200, ""), Request("probe", 0.0, 0.01, 503, "")]
    found = seen([*requests, *probes])
    assert (found.purchases, found.failures, found.p99_s) == (100, 0, 0.5)
    assert found.good
    assert found.slowest_probe_s == float("inf")


def test_a_failure_or_a_slow_purchase_in_a_hundred_is_harm():
    assert not seen([bought(0.01), bought(0.01, 503, code="overloaded")]).good
    assert seen([bought(0.01, 503, code="overloaded")]).codes == ("503 overloaded",)
    assert not seen([bought(1.2)]).good
    assert seen([]).good


@pytest.mark.slow
def test_a_server_that_stands_still_makes_every_purchase_late_that_was_due():
    """Ten a second are due whatever becomes of those before: half a second delays five."""
    stands = threading.Event()

    class Server(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer({"models": [{"id": "m"}]})

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            while stands.is_set():
                time.sleep(0.01)
            self.answer({})

        def answer(self, value):
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with Onlooker([server.server_port], "key", "set") as onlooker:
            stands.set()
            began = time.monotonic()
            time.sleep(0.6)
            stands.clear()
            ended = time.monotonic()
            stood = onlooker.during(began, ended)
            explained = onlooker.during(began, ended, without=[(began - 1, ended + 1)])
    finally:
        server.shutdown()
        server.server_close()
    assert stood.purchases >= 5
    assert stood.p99_s > 0.3
    assert explained.purchases == 0
