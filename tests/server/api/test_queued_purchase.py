"""A client that leaves while its purchase waits for the device, on a real socket."""

import contextlib
import json
import socket
import struct
import threading
import time

import pytest

from craft_server.api.limits import connection_limits
from craft_server.api.services import services_of
from craft_server.app import create_app
from tests.support.serving import in_thread, png, settings_in, stub_box, text_request

pytestmark = pytest.mark.slow

PING = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("behind", [b"", PING], ids=["alone", "with a request behind"])
def test_a_purchase_that_waits_is_dropped_when_its_client_leaves(tmp_path, caplog, behind):
    settings = settings_in(tmp_path)
    box, begun, go = stub_box(settings), threading.Event(), threading.Event()
    encode = box.encode_texts

    def slow(pieces):
        begun.set()
        assert go.wait(30)
        return encode(pieces)

    app = create_app(settings, box)
    services = services_of(app)
    token = services.keys.create("ann", 10).token
    key = services.keys.verify(token)
    images = services.images.add("ann", [png(1)])
    made = services.images.create_set("ann", [image.id for image in images], name="")
    body = json.dumps(text_request(made.id)).encode()

    def purchase(name):
        head = f"POST /v1/logits HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        head += f"Idempotency-Key: {name}\r\nContent-Type: application/json\r\n"
        return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def stands():
        budget = services.meter.budgets(key.id).queries
        return budget.used, budget.held

    with (
        in_thread(app, http=connection_limits(settings)) as port,
        socket.create_connection(("127.0.0.1", port), timeout=30) as first,
        contextlib.ExitStack() as at_the_end,
    ):
        at_the_end.callback(go.set)
        box.encode_texts = slow  # the canary of the start is over
        first.sendall(purchase("one"))
        assert begun.wait(20)
        with socket.create_connection(("127.0.0.1", port)) as second:
            second.sendall(purchase("two") + behind)
            until(lambda: stands() == (0, 4))
            second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: stands() == (0, 2))
        go.set()
        assert first.recv(2**16).startswith(b"HTTP/1.1 200")
        assert stands() == (2, 0)
    assert "Exception in ASGI" not in caplog.text
