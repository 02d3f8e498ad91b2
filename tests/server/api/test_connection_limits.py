"""Connections: slow, idle, endless, too many; on real sockets, against uvicorn in this process."""

import asyncio
import contextlib
import socket
import struct
import threading
import time

import pytest

from craft_server.api.connection_limits import HEAD_BYTES, ConnectionLimits
from craft_server.api.deliveries import Deliveries
from craft_server.api.least_rate import LeastRate
from tests.support.serving import in_thread

pytestmark = pytest.mark.slow

GET = b"GET / HTTP/1.1\r\n\r\n"
SLOW_S = 30
"""A bound that only a broken limit reaches."""


left = threading.Event()


async def app(scope, receive, send):
    """Answers `ok`; /echo reads the body, /large sends 40 MB, /early answers before the body.

    /known has a key and reads the body; /slow answers after a while, unless the client left.
    """
    if scope["path"] == "/known":
        scope["state"]["known"]()
    if scope["path"] in {"/echo", "/known"}:
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            left.set()
    if scope["path"] == "/slow":
        await receive()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(receive(), SLOW_S if scope["query_string"] else 0.5)
            left.set()
            return
    body = bytes(40_000_000 if scope["path"] == "/large" else 2)
    start = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": start})
    await send({"type": "http.response.body", "body": body})


def serving(app=app, **limits):
    left.clear()
    values = {"head_s": 0.3, "reply_s": 1.0, "connections": 100} | limits
    return in_thread(app, http=ConnectionLimits(**values), lifespan="off")


@contextlib.contextmanager
def line_to(port):
    with socket.create_connection(("127.0.0.1", port), timeout=SLOW_S) as line:
        yield line


def everything(line):
    """What arrives until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := line.recv(2**20):
            found += piece
    return found


def one_reply(line):
    found = b""
    while b"\r\n\r\n" not in found or not found.endswith(b"\0\0"):
        piece = line.recv(2**16)
        assert piece, found
        found += piece
    return found


def test_a_connection_that_says_nothing_is_closed():
    with serving() as port, line_to(port) as line:
        assert everything(line) == b""


@pytest.mark.parametrize("start", [b"GET / HT", b"GET / HTTP/1.1\r\nX: y\r\n", b"\r\n"])
def test_a_head_that_is_not_complete_in_time_is_reported_so(start):
    with serving() as port, line_to(port) as line:
        line.sendall(start)
        assert everything(line).startswith(b"HTTP/1.1 408")


def test_drops_do_not_buy_time():
    with serving(head_s=0.5) as port, line_to(port) as line:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            line.sendall(b"GET / HTTP/1.1\r\nX: ")
            while time.monotonic() < began + SLOW_S:
                line.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() < began + SLOW_S


def test_a_good_client_keeps_its_connection():
    with serving(head_s=SLOW_S) as port, line_to(port) as line:
        for _ in range(3):
            line.sendall(GET)
            assert one_reply(line).startswith(b"HTTP/1.1 200")


def test_two_requests_at_once_are_answered_in_turn():
    with serving() as port, line_to(port) as line:
        line.sendall(GET + GET)
        assert everything(line).count(b"HTTP/1.1 200") == 2


def test_a_connection_that_idles_after_a_reply_is_closed():
    with serving() as port, line_to(port) as line:
        line.sendall(GET)
        assert one_reply(line)
        assert everything(line) == b""


def test_a_head_without_end_is_cut():
    with serving(head_s=SLOW_S) as port, line_to(port) as line:
        with contextlib.suppress(OSError):
            line.sendall(b"GET / HTTP/1.1\r\nX: ")
            for _ in range(100):
                line.sendall(b"x" * HEAD_BYTES)
        assert everything(line)[:12] in {b"HTTP/1.1 431", b""}


def test_trailers_are_dropped_and_those_without_end_cut():
    head = b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    with serving(head_s=SLOW_S) as port:
        with line_to(port) as line:
            line.sendall(head + b"authorization: trailer\r\n\r\n")
            assert one_reply(line).startswith(b"HTTP/1.1 200")
        with line_to(port) as line:
            with contextlib.suppress(OSError):
                line.sendall(head + b"X: ")
                for _ in range(100):
                    line.sendall(b"x" * HEAD_BYTES)
            assert everything(line) == b""


def test_the_rest_of_a_body_that_was_answered_may_come_and_the_line_goes_on():
    with serving(head_s=SLOW_S) as port, line_to(port) as line:
        line.sendall(b"POST /early HTTP/1.1\r\nContent-Length: 4\r\n\r\nab")
        assert one_reply(line)
        line.sendall(b"cd" + GET)
        assert one_reply(line)


def test_the_rest_of_a_body_that_never_ends_is_not_awaited(monkeypatch):
    monkeypatch.setattr("craft_server.api.connection_limits._LINGER_S", 0.2)
    with serving(head_s=SLOW_S) as port, line_to(port) as line:
        line.sendall(b"POST /early HTTP/1.1\r\nContent-Length: 1000\r\n\r\nab")
        assert everything(line).startswith(b"HTTP/1.1 200")


def test_of_too_many_connections_the_longest_idle_makes_room():
    with serving(head_s=SLOW_S, connections=3) as port, contextlib.ExitStack() as lines:
        first, second, third, fourth = (lines.enter_context(line_to(port)) for _ in range(4))
        assert (
            everything(first)
            == b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        for line in (second, third, fourth):
            line.sendall(GET)
            assert one_reply(line).startswith(b"HTTP/1.1 200")


def test_those_who_hold_on_after_their_answer_make_room_too():
    """A client without a key must not keep others out by never ending its body."""
    with serving(head_s=SLOW_S, connections=3) as port, contextlib.ExitStack() as lines:
        for _ in range(3):
            line = lines.enter_context(line_to(port))
            line.sendall(b"POST /early HTTP/1.1\r\nContent-Length: 1000\r\n\r\nab")
            assert one_reply(line)
        good = lines.enter_context(line_to(port))
        good.sendall(GET)
        assert one_reply(good).startswith(b"HTTP/1.1 200")


def test_a_reader_that_takes_nothing_makes_room_too():
    with (
        serving(head_s=SLOW_S, reply_s=SLOW_S, connections=2) as port,
        contextlib.ExitStack() as on,
    ):
        dead = [on.enter_context(line_to(port)) for _ in range(2)]
        for line in dead:
            line.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        assert dead[1].recv(1)
        good = on.enter_context(line_to(port))
        good.sendall(GET)
        assert one_reply(good).startswith(b"HTTP/1.1 200")
        assert len(everything(dead[0])) < 40_000_000


def test_an_upgrade_is_not_taken_and_hurts_nobody():
    upgrade = b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with serving() as port:
        with line_to(port) as line:
            line.sendall(upgrade + b"x" * 1000)
            assert everything(line).startswith(b"HTTP/1.1 200")
        with line_to(port) as line:
            line.sendall(GET)
            assert one_reply(line).startswith(b"HTTP/1.1 200")


def test_if_all_work_the_newcomer_is_asked_to_come_again():
    with serving(head_s=SLOW_S, connections=2) as port, contextlib.ExitStack() as lines:
        busy = [lines.enter_context(line_to(port)) for _ in range(2)]
        for line in busy:
            line.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\n")
            time.sleep(0.2)
        newcomer = everything(lines.enter_context(line_to(port)))
        assert newcomer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After" in newcomer
        for line in busy:
            line.sendall(b"x")
            assert one_reply(line).startswith(b"HTTP/1.1 200")


def test_a_slow_reader_has_more_time_than_a_sender():
    with serving(head_s=0.2, reply_s=SLOW_S) as port, line_to(port) as line:
        line.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        time.sleep(0.6)
        assert len(everything(line)) > 40_000_000


def test_a_reader_that_takes_nothing_is_cut():
    with serving(head_s=0.2, reply_s=0.5) as port, line_to(port) as line:
        line.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        assert line.recv(1)
        time.sleep(2)
        assert len(everything(line)) < 40_000_000


# --- half a connection --------------------------------------------------------------------------


def test_who_ends_its_side_after_a_whole_request_gets_its_reply():
    with serving() as port, line_to(port) as line:
        line.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        line.shutdown(socket.SHUT_WR)
        found = everything(line)
    assert found.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").startswith(b"HTTP/1.1 200")
    assert found.endswith(b"\0\0")
    assert not left.is_set()


def test_two_requests_of_half_a_connection_are_answered_in_turn():
    with serving() as port, line_to(port) as line:
        line.sendall(b"GET /slow HTTP/1.1\r\n\r\n" * 2)
        line.shutdown(socket.SHUT_WR)
        assert everything(line).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_client_that_leaves_while_its_request_is_in_work_is_noticed(version):
    with serving() as port:
        with line_to(port) as line:
            line.sendall(b"GET /slow?long HTTP/" + version + b"\r\n\r\n")
            time.sleep(0.2)
        assert left.wait(SLOW_S / 3)


@pytest.mark.parametrize("gap_s", [0, 0.2])
@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_leaves_with_another_request_queued_is_noticed(caplog, reset, gap_s):
    """The request behind may come with the first, or while the application waits for more."""
    with serving() as port:
        with line_to(port) as line:
            line.sendall(b"GET /slow?long HTTP/1.1\r\n\r\n" + (b"" if gap_s else GET))
            time.sleep(0.2)
            if gap_s:
                line.sendall(GET)
                time.sleep(gap_s)
            if reset:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert left.wait(SLOW_S / 3)
    assert not caplog.records


def test_of_a_client_that_left_no_queued_request_is_begun(caplog):
    asked = []

    async def noting(scope, receive, send):
        asked.append(scope["path"])
        await app(scope, receive, send)

    with serving(noting) as port:
        with line_to(port) as line:
            line.sendall(b"GET /slow?long HTTP/1.1\r\n\r\n" + b"GET /known HTTP/1.1\r\n\r\n" * 3)
            time.sleep(0.2)
        assert left.wait(SLOW_S / 3)
    assert asked == ["/slow"]
    assert not caplog.records


def test_requests_queued_behind_one_in_work_are_few_or_wait_in_the_socket():
    """Who sends without end while its first request is in work fills no memory here."""
    go = threading.Event()

    async def waiting(scope, receive, send):
        await receive()
        left = asyncio.ensure_future(receive())
        while not go.is_set():
            await asyncio.sleep(0.02)
        left.cancel()
        await app(scope, receive, send)

    with serving(waiting) as port, line_to(port) as line:
        line.sendall(GET)
        time.sleep(0.2)
        line.settimeout(1)
        with pytest.raises(TimeoutError):
            line.sendall(GET * 2**22)
        go.set()


def test_a_body_that_ends_too_early_is_one_whose_client_left():
    with serving() as port, line_to(port) as line:
        line.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: 9\r\n\r\nx")
        line.shutdown(socket.SHUT_WR)
        assert left.wait(SLOW_S)
        assert everything(line) == b""


# --- readers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [app, Deliveries(app)])
def test_a_reader_that_takes_less_than_the_least_rate_is_cut(asked):
    least = LeastRate(bytes_s=10**7, grace_s=0.3)
    with (
        serving(asked, head_s=SLOW_S, reply_s=SLOW_S, least=least) as port,
        line_to(port) as line,
    ):
        line.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        time.sleep(2)
        assert len(everything(line)) < 40_000_000


@pytest.mark.parametrize("asked", [app, Deliveries(app)])
def test_a_reader_that_keeps_the_least_rate_has_all_its_time(asked):
    least = LeastRate(bytes_s=100_000, grace_s=1.0)
    with (
        serving(asked, head_s=SLOW_S, reply_s=SLOW_S, least=least) as port,
        line_to(port) as line,
    ):
        line.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        found, began = 0, time.monotonic()
        while time.monotonic() < began + 3:
            found += len(line.recv(100_000))
            time.sleep(0.05)
        assert found + len(everything(line)) > 40_000_000


def test_replies_that_are_asked_for_one_after_the_other_and_not_read_are_cut_too():
    """Each waits for the one before, as a request in work: nothing else would end it."""
    least = LeastRate(bytes_s=10**7, grace_s=0.3)
    with (
        serving(head_s=SLOW_S, reply_s=SLOW_S, least=least) as port,
        line_to(port) as line,
    ):
        line.sendall(b"GET /large HTTP/1.1\r\n\r\n" * 3)
        time.sleep(2)
        assert len(everything(line)) < 40_000_000


# --- strangers ----------------------------------------------------------------------------------


def test_who_is_in_work_without_a_key_makes_room_after_a_while():
    with serving(head_s=SLOW_S, connections=3) as port, contextlib.ExitStack() as lines:
        held = [lines.enter_context(line_to(port)) for _ in range(3)]
        for line in held:
            line.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: 9\r\n\r\nx")
        time.sleep(1.5)
        good = lines.enter_context(line_to(port))
        good.sendall(GET)
        assert one_reply(good).startswith(b"HTTP/1.1 200")
        assert everything(held[0]) == b""


def test_who_is_in_work_with_a_key_does_not():
    with serving(head_s=SLOW_S, connections=1) as port, contextlib.ExitStack() as lines:
        held = lines.enter_context(line_to(port))
        held.sendall(b"POST /known HTTP/1.1\r\nContent-Length: 1\r\n\r\n")
        time.sleep(1.5)
        assert everything(lines.enter_context(line_to(port))).startswith(b"HTTP/1.1 503")
        held.sendall(b"x")
        assert one_reply(held).startswith(b"HTTP/1.1 200")
