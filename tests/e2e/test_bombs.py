"""Hostile requests on a real server: the right refusal, soon, in little memory, at no charge."""

import socket
import time

import pytest

from benchmarks.common.servers import Server, noise_png
from benchmarks.reliability.bombs import SETTINGS, Range, bombs, costly
from tests.support.serving import running, upload

BOMBS, COSTLY = bombs(), costly()
SOON_S, LITTLE_MB, MUCH_MB = 60, 500, 1000
"""Generous: `python -m benchmarks bombs` measures; a bomb that works takes minutes or gigabytes."""


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bombs")
    with running(folder, **SETTINGS, connections=64) as server:
        yield Range(Server(folder, server.port, server.process, server.env))


@pytest.mark.parametrize("bomb", BOMBS, ids=[bomb.name for bomb in BOMBS])
def test_a_bomb_is_refused_and_the_next_good_request_served(field, bomb):
    thrown = field.throw(bomb)
    assert thrown["code"] == bomb.code
    assert thrown["seconds"] < SOON_S
    assert thrown["peak_mb"] < LITTLE_MB
    assert field.serve() == 1


@pytest.mark.parametrize("file", COSTLY, ids=[file.name for file in COSTLY])
def test_the_costliest_files_within_the_limits_are_decoded_in_bounds(field, file):
    thrown = field.throw(file)
    assert thrown["code"] == "200"
    assert thrown["seconds"] < SOON_S
    assert thrown["peak_mb"] < MUCH_MB
    assert field.serve() == 1


def test_idle_connections_make_room_for_good_ones(field):
    port = field.target.port
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    for line in idle[:100]:
        line.sendall(b"GET /livez HTTP/1.1\r\n")
    assert field.serve() == 1
    for line in idle:
        line.close()


def test_a_sender_that_hangs_up_in_the_middle_hurts_nobody(field):
    head = b"POST /v1/logits HTTP/1.1\r\nContent-Length: 1000\r\nAuthorization: Bearer "
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", field.target.port)) as line:
            line.sendall(head + field.target.key.encode() + b"\r\n\r\n{")
    assert field.serve() == 1


def test_names_of_files_are_not_names_on_the_server(tmp_path):
    (tmp_path / "data").mkdir()
    with running(tmp_path / "data") as server, server.client(server.mint(1)) as client:
        for name in ("../../../escaped.png", "/escaped.png", "nul\0.png", "x" * 3000):
            files = [("files", (name, noise_png(1)))]
            assert client.post("/v1/images", files=files).status_code == 200
        assert len(upload(client, [noise_png(1)])) == 1
    kept = [path for path in (tmp_path / "data" / "images").rglob("*") if path.is_file()]
    assert len(kept) == 1
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_body_without_a_key_is_not_read(tmp_path):
    """The refusal comes at once, and what goes on arriving is thrown away for seconds only."""
    head = b"POST /v1/images HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
    head += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    with (
        running(tmp_path) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as line,
    ):
        line.sendall(head)
        assert line.recv(2**16).startswith(b"HTTP/1.1 401")
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            drip(line, seconds=60)


def drip(line, *, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        line.sendall(b"1\r\nx\r\n")
        time.sleep(0.05)
