"""Over a real socket: whatever happens to a reply, the question is answered and paid once."""

import socket
import time

import numpy as np
import pytest

from craft_shared.errors import Code
from craft_tuner.blackbox import Texts
from craft_tuner.client.account import choose_model
from craft_tuner.client.client import Client
from craft_tuner.client.transport import Transport
from craft_tuner.config.connection import Connection
from craft_tuner.data.pictures import BytesPicture
from craft_tuner.errors import ServerUnreachable
from tests.support.tuner_server import (
    N_CTX,
    WIDTH,
    FakeServer,
    an_image,
    does,
    impatient,
    listening,
    model_card,
    refuses,
)

TEXTS = Texts(("cat", "dog"))
PICTURES = [BytesPicture(an_image(str(index)), f"{index}.png") for index in range(4)]
OFFSETS = np.random.default_rng(0).normal(size=(6, N_CTX, WIDTH)).astype(np.float32)


def ask(url, **options):
    with impatient(url, **options) as transport:
        client = Client(transport, choose_model(transport), run_id="run")
        images = client.upload(PICTURES, name="shots", classes=2).images
        logits = client.score(TEXTS, OFFSETS, images, purpose="fitness", step="fitness/1")
    return client, logits


@pytest.fixture(scope="module")
def undisturbed():
    with listening(FakeServer()) as url:
        return ask(url)[1]


@pytest.mark.parametrize(
    "mischief",
    [
        [],
        [does("drop")],
        [does("cut")],
        [does("stall")],
        [does("repeat")],
        [refuses(Code.OVERLOADED)],
        [does("drop"), does("cut"), refuses(Code.RATE_LIMITED), does("drop")],
    ],
    ids=["none", "drop", "cut", "stall", "repeat", "refuse", "all"],
)
def test_a_disturbed_reply_is_bought_once_and_believed_once(mischief, undisturbed):
    server = FakeServer()
    server.mischief = list(mischief)
    with listening(server) as url:
        client, logits = ask(url)
    np.testing.assert_array_equal(logits, undisturbed)
    assert server.spent.queries == 6
    assert client.purchases.total == server.spent


def test_batches_of_a_disturbed_request_are_each_bought_once():
    server = FakeServer(cards=[model_card(prompts=2)])
    server.mischief = [does("repeat"), does("drop"), does("cut"), does("repeat")]
    with listening(server) as url:
        client, _ = ask(url)
    assert server.spent.queries == 6
    assert client.purchases.total == server.spent


def test_images_survive_a_wire_of_their_own():
    server = FakeServer()
    with listening(server) as url:
        ask(url)
    assert sorted(server.images.values()) == sorted(picture.data for picture in PICTURES)


def test_nobody_listening_is_said_within_a_second():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        started = time.monotonic()
        with impatient(url) as transport, pytest.raises(ServerUnreachable, match="refused"):
            choose_model(transport)
    assert time.monotonic() - started < 1


def test_a_lookup_is_not_waited_for_as_long_as_logits_are(monkeypatch):
    monkeypatch.setattr("craft_tuner.client.account.LOOKUP_TIMEOUT_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        transport = Transport(Connection(url, "craft_x", timeout_s=600), sleep=lambda _: None)
        with transport, pytest.raises(ServerUnreachable, match=r"no reply in time"):
            choose_model(transport)
    assert time.monotonic() - started < 5
