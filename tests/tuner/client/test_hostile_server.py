"""A server that means harm gets neither the tuner's memory nor its time nor its key."""

import gzip
import time
import tracemalloc

import numpy as np
import pytest

from craft_shared import int16_rows, wire
from craft_shared.errors import PROBLEM_MEDIA_TYPE
from craft_shared.int16_rows import HIDDEN
from craft_shared.messages import KeyInfo, ManifestReply, ModelList
from craft_shared.tensors import TENSOR_MEDIA_TYPE
from craft_tuner.blackbox import Texts
from craft_tuner.client import transport as transports
from craft_tuner.client.account import choose_model, fetch_key
from craft_tuner.client.client import Client
from craft_tuner.client.responses import message
from craft_tuner.client.transport import Call, Patience, Transport
from craft_tuner.config.connection import Connection
from craft_tuner.data.pictures import BytesPicture
from craft_tuner.errors import NoAnswer, ServerUnreachable
from tests.support.hostile_server import hostile, once, without_end
from tests.support.tuner_server import (
    KEY,
    N_CTX,
    WIDTH,
    Answer,
    FakeServer,
    an_image,
    model_card,
    says,
    transport_to,
)

pytestmark = pytest.mark.slow  # waits for servers

MIB = 2**20
BLOCK = b"\0" * 65_536
OK = "HTTP/1.1 200 OK\nContent-Type: application/x-safetensors\n"
JSON = "HTTP/1.1 200 OK\nContent-Type: application/json\n"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(transports, "_GRACE_S", 0.2)

    def to(url, *, timeout_s=1.0):
        patience = Patience(first_attempts=1, attempts=1)
        return Transport(Connection(url, KEY, timeout_s=timeout_s), patience=patience)

    return to


def body_of(response):
    return response.content


def peak_of(work):
    """Most bytes that Python had at a time beyond what it has now."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("head", "block"),
    [
        (f"{OK}\n", BLOCK),
        (f"{OK}Transfer-Encoding: chunked\n\n", b"10000\r\n" + BLOCK + b"\r\n"),
        (f"{OK}Content-Length: 9{'0' * 15}\n\n", BLOCK),
    ],
    ids=["until it closes", "chunked", "of a length"],
)
def test_a_reply_without_end_costs_no_more_memory_than_twice_the_expected_one(
    impatient, head, block
):
    call = Call("POST", "/v1/logits", content=b"", reply_bytes=4 * MIB)

    def ask():
        with (
            impatient(server.url, timeout_s=20) as transport,
            pytest.raises(ServerUnreachable, match=r"more than 4,194,304 bytes, and no hon"),
        ):
            transport.send(call, body_of)

    with hostile(without_end(head, block)) as server:
        assert peak_of(ask) < 8 * MIB


def test_an_honest_reply_costs_no_more_than_twice_itself(impatient):
    head, body = f"{OK}Content-Length: {8 * MIB}\n\n", bytes(8 * MIB)
    call = Call("POST", "/v1/logits", content=b"", reply_bytes=8 * MIB)

    def ask():
        with impatient(server.url, timeout_s=20) as transport:
            assert len(transport.send(call, body_of)) == 8 * MIB

    with hostile(once(head, body)) as server:
        assert peak_of(ask) < 2.1 * 8 * MIB + len(body)  # the sender's own copy is counted too


def test_a_packed_reply_is_refused_as_it_is(impatient):
    packed = gzip.compress(bytes(64 * MIB))
    head = f"{OK}Content-Encoding: gzip\nContent-Length: {len(packed)}\n\n"
    call = Call("POST", "/v1/logits", content=b"", reply_bytes=128 * MIB)

    def ask():
        with (
            impatient(server.url) as transport,
            pytest.raises(ServerUnreachable, match="packed as 'gzip', which was not asked"),
        ):
            transport.send(call, body_of)

    with hostile(once(head, packed)) as server:
        assert peak_of(ask) < 4 * MIB


@pytest.mark.parametrize("status", ["400 Bad Request", "302 Found"])
def test_an_error_without_end_is_cut(impatient, status):
    head = f"HTTP/1.1 {status}\nContent-Type: {PROBLEM_MEDIA_TYPE}\n\n"

    def ask():
        with (
            impatient(server.url, timeout_s=20) as transport,
            pytest.raises(ServerUnreachable, match="not protocol"),
        ):
            fetch_key(transport)

    with hostile(without_end(head, BLOCK)) as server:
        assert peak_of(ask) < 2 * MIB


def test_a_gateways_long_page_is_still_a_gateways(impatient):
    head = "HTTP/1.1 502 Bad Gateway\nContent-Type: text/html\nContent-Length: 200000\n\n"
    with (
        hostile(once(head, b"x" * 200_000)) as server,
        impatient(server.url) as transport,
        pytest.raises(NoAnswer, match="a gateway answers 502"),
    ):
        fetch_key(transport)


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        ("", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("HTTP/1.1 200 OK\n", b"X: y\r\n"),
        (f"{JSON}\n", b" "),
        (f"{JSON}Content-Length: 1000000\n\n", b" "),
        (f"{JSON}Transfer-Encoding: chunked\n\n", b"1\r\n \r\n"),
    ],
    ids=["interim replies", "head", "body until it closes", "body", "chunks"],
)
def test_a_reply_that_trickles_is_cut_off_though_no_wait_is_long(impatient, head, drop):
    with hostile(without_end(head, drop, pause_s=0.05)) as server:
        started = time.monotonic()
        with (
            impatient(server.url, timeout_s=0.5) as transport,
            pytest.raises(NoAnswer, match=r"came too slowly and was cut off \(--timeout\)"),
        ):
            fetch_key(transport)
        assert time.monotonic() - started < 30


@pytest.mark.slow
def test_interim_replies_without_a_pause_are_cut_off_too(impatient):
    with (
        hostile(without_end("", b"HTTP/1.1 102 Processing\r\n\r\n" * 50)) as server,
        impatient(server.url, timeout_s=0.5) as transport,
        pytest.raises(NoAnswer),
    ):
        fetch_key(transport)


@pytest.mark.slow
def test_a_slow_but_steady_reply_is_waited_for(impatient):
    """Bytes that come at the least rate give the reply more time."""
    body = ModelList(models=[model_card()]).model_dump_json().encode()
    padded = body + b" " * (40_000 - len(body))

    def deed(connection, _over):
        connection.sendall((JSON.replace("\n", "\r\n") + "Content-Length: 40000\r\n\r\n").encode())
        for start in range(0, 40_000, 2_000):
            connection.sendall(padded[start : start + 2_000])
            time.sleep(0.07)

    with hostile(deed) as server, impatient(server.url, timeout_s=0.5) as transport:
        assert choose_model(transport).id == "fake::1"


def test_the_key_goes_nowhere_else(impatient):
    with hostile(once(f"{JSON}\n", b"{}")) as thief:
        head = f"HTTP/1.1 307 Temporary Redirect\nLocation: {thief.url}/v1/key\n"
        with (
            hostile(once(f"{head}Set-Cookie: a=b\nContent-Length: 0\n\n")) as server,
            impatient(server.url) as transport,
        ):
            for _ in range(2):
                with pytest.raises(ServerUnreachable, match="give the server's own address"):
                    fetch_key(transport)
        assert thief.heads == []
    assert len(server.heads) == 2
    assert not any("cookie" in head.lower() for head in server.heads)


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (ModelList, b'{"models":[' + b"{}," * MIB + b"{}]}"),
        (ManifestReply, b'{"missing":[' + b"1," * MIB + b"1]}"),
        (KeyInfo, b'{"scopes":[' + b"1," * MIB + b"1]}"),
    ],
)
def test_a_million_faults_in_a_reply_are_not_described_one_by_one(model, body):
    def ask():
        with transport_to(server) as transport, pytest.raises(ServerUnreachable):
            transport.send(Call("POST", "/v1/logits"), message(model))

    server = FakeServer()
    server.mischief = [says(Answer(body=body))]
    assert peak_of(ask) < 40 * MIB


@pytest.mark.parametrize(
    ("dtype", "most"), [("float32", "8,446"), ("float16", "8,326"), ("int16", "8,566")]
)  # 3 x 10 rows of 2 classes, and of int16 8 bytes a row
def test_logits_are_read_to_their_exact_size_and_no_further(dtype, most):
    server = FakeServer(cards=[model_card(images=100)])
    server.mischief = [says(Answer(body=bytes(100_000), media_type=TENSOR_MEDIA_TYPE))]
    with transport_to(server) as transport:
        client = Client(transport, choose_model(transport), run_id="run", dtype=dtype)
        pictures = [BytesPicture(an_image(str(index)), str(index)) for index in range(10)]
        images = client.upload(pictures, name="shots", classes=2).images
        offsets = np.zeros((3, N_CTX, WIDTH), np.float32)
        with pytest.raises(ServerUnreachable, match=rf"more than {most} bytes"):
            client.score(Texts(("a", "b")), offsets, images, purpose="test", step="test")


def rows_with(**changes):
    """Mischief: charge honestly, answer with int16 rows of which some tensors are others."""

    def change(server, asked):
        reply, logits = wire.decode_reply(server.honest(asked).body)
        rows = int16_rows.encode(logits)
        body = wire.encode_reply(reply, rows._replace(**changes))
        return Answer(body=body, media_type=TENSOR_MEDIA_TYPE)

    return change


def rows_of(number, shape=(1, 3)):
    return np.full(shape, number, np.float32)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scale": rows_of(np.nan)}, "a scale is negative or no finite number"),
        ({"scale": rows_of(np.inf)}, "a scale is negative or no finite number"),
        ({"scale": rows_of(-1)}, "a scale is negative or no finite number"),
        ({"offset": rows_of(np.nan)}, "an offset is no finite number"),
        ({"offset": rows_of(np.inf)}, "an offset is no finite number"),
        ({"scale": rows_of(1, (1, 2))}, "a number for each row"),
        ({"offset": rows_of(1, (3,))}, "a number for each row"),
        ({"scale": np.ones((1, 3), np.float16)}, "needed: int16, float32, float32"),
        ({"values": np.zeros((1, 3, 2), np.float32)}, "a reply has one tensor, logits"),
        ({"values": np.full((1, 3, 2), HIDDEN, np.int16)}, "not finite numbers"),
        (
            {"values": np.zeros((2, 3, 2), np.int16)}
            | {name: rows_of(1, (2, 3)) for name in ("offset", "scale")},
            "logits of shape",
        ),
    ],
)
def test_int16_rows_that_are_none_are_refused(changes, says):
    server = FakeServer()
    server.mischief = [rows_with(**changes)] * 20
    with transport_to(server) as transport:
        client = Client(transport, choose_model(transport), run_id="run", dtype="int16")
        pictures = [BytesPicture(an_image(str(index)), str(index)) for index in range(3)]
        images = client.upload(pictures, name="shots", classes=2).images
        offsets = np.zeros((1, N_CTX, WIDTH), np.float32)
        with pytest.raises(ServerUnreachable, match=says):
            client.score(Texts(("a", "b")), offsets, images, purpose="test", step="test")


@pytest.mark.parametrize("field", ["context_width", "image_size", "context_length"])
@pytest.mark.parametrize("value", [0, -1, 10**9])
def test_a_card_that_would_fill_the_memory_is_refused(field, value):
    card = model_card().model_copy(update={field: value})
    with (
        transport_to(FakeServer(cards=[card])) as transport,
        pytest.raises(ServerUnreachable, match=f"has {field} {value:,}; allowed: 1 to"),
    ):
        choose_model(transport)


def test_what_a_server_says_is_cut_where_it_has_no_end():
    problem = b'{"type":"","title":"","status":400,"code":"invalid_request","retryable":false,'
    body = problem + b'"detail":"' + b"x" * 60_000 + b'"}'
    server = FakeServer()
    server.mischief = [says(Answer(400, body, PROBLEM_MEDIA_TYPE))]
    with transport_to(server) as transport, pytest.raises(ServerUnreachable) as caught:
        transport.send(Call("POST", "/v1/logits"), message(KeyInfo))
    assert len(caught.value.message) < 3000
