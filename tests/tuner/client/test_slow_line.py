"""Over a slow, cut or narrow line every image arrives, and none that arrived is sent again."""

import numpy as np
import pytest

from craft_tuner.client import upload_rate as pacing
from craft_tuner.client.account import choose_model
from craft_tuner.client.client import Client
from craft_tuner.client.transport import Patience, Transport
from craft_tuner.client.upload_rate import FIRST_BYTES
from craft_tuner.config.connection import Connection
from craft_tuner.data.pictures import BytesPicture
from craft_tuner.errors import NoAnswer
from tests.support.slow_line import SlowLine
from tests.support.tuner_server import KEY, an_image, listening

pytestmark = pytest.mark.slow

PICTURES = [
    BytesPicture(an_image(np.random.default_rng(seed).bytes(30_000)), f"{seed}.png")
    for seed in range(40)
]
TOTAL = sum(len(picture.data) for picture in PICTURES)


def send(line, pictures=PICTURES):
    patience = Patience(base_s=0.01, cap_s=0.01)
    notices = []
    connection = Connection(line.url, KEY, timeout_s=60)
    with Transport(connection, patience=patience, notice=notices.append) as transport:
        client = Client(transport, choose_model(transport), run_id="run")
        steps = []
        client.upload(pictures, name="shots", classes=2, on_uploaded=steps.append)
    assert sum(steps) == len(pictures)
    return client, notices


@pytest.fixture
def url(server):
    with listening(server) as url:
        yield url


def test_pieces_are_what_the_line_carries_in_the_time_that_a_request_may_take(
    server, url, monkeypatch
):
    """The line is never faster than it says, so neither is what was measured of it."""
    monkeypatch.setattr(pacing, "TARGET_S", 0.5)
    with SlowLine(url, bytes_per_s=600_000, latency_s=0.02) as line:
        client, _ = send(line)
    assert len(server.images) == len(PICTURES)
    assert 0 < client.upload_rate.bytes_per_s <= 600_000
    assert line.uploads[0].size <= FIRST_BYTES + 1000
    assert all(one.size <= 300_000 + 1000 for one in line.uploads[1:])
    assert sum(one.size for one in line.uploads) < 1.05 * TOTAL


def test_a_fast_line_soon_gets_large_pieces(server, url):
    with SlowLine(url) as line:
        send(line)
    assert len(line.uploads) <= 3


def test_a_piece_cut_in_the_middle_is_sent_again_and_no_other(server, url):
    with SlowLine(url, bytes_per_s=3e6, cut_upload=1) as line:
        _, notices = send(line)
    assert len(server.images) == len(PICTURES)
    assert [one.status for one in line.uploads[:3]] == [200, None, 200]
    whole = [one for one in line.uploads if one.status == 200]
    arrived = [each for one in whole for each in one.ids]
    assert len(arrived) == len(set(arrived)) == len(PICTURES)
    assert len(notices) == 1


def test_a_gateway_that_takes_small_bodies_gets_small_pieces(server, url):
    """Nginx takes a megabyte unless it is configured otherwise; what it refuses is halved."""
    with SlowLine(url, largest=100_000) as line:
        send(line)
    assert len(server.images) == len(PICTURES)
    arrived = [each for one in line.uploads if one.status == 200 for each in one.ids]
    assert len(arrived) == len(set(arrived)) == len(PICTURES)
    assert all(one.size <= 100_000 for one in line.uploads if one.status == 200)


def test_a_gateway_that_takes_not_even_one_image_is_named(url):
    with (
        SlowLine(url, largest=20_000) as line,
        pytest.raises(NoAnswer, match=r"takes no body of 30,\d+ bytes .*client_max_body_size"),
    ):
        send(line)


def test_what_arrived_before_a_new_start_is_not_sent_again(server, url):
    with SlowLine(url) as line:
        send(line, PICTURES[:25])
        before = len(line.uploads)
        send(line)
    sent = [each for one in line.uploads[before:] for each in one.ids]
    assert len(sent) == len(set(sent)) == 15


def test_a_piece_whose_reply_never_comes_is_asked_about_before_it_is_halved(server, url):
    """The server keeps the piece, a proxy gives up on it each time: the manifest tells."""
    with SlowLine(url, longest=200_000) as line:
        _, notices = send(line)
    assert len(server.images) == len(PICTURES)
    lost = [one for one in line.uploads if one.size > 200_000]
    assert all(one.status == 200 for one in line.uploads)
    assert len(lost) % 3 == 0
    assert len(notices) == len(lost) * 2 // 3
    kept = {tuple(one.ids) for one in line.uploads}
    assert sum(map(len, kept)) == len(PICTURES)
