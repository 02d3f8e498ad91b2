"""Processes on one database: what one holds is given back by itself, or when it is dead."""

import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.test_server_process import (
    ask,
    assert_books_balance,
    stands,
    wait_until_it_stands,
)
from tests.support.databases import fresh_postgres
from tests.support.serving import SCRIPTS, image_set, running, text_request

ENDS_S = 60

pytestmark = pytest.mark.long


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request):
    """A database for several processes, and a device that works longer than a server starts."""
    database = {} if request.param == "sqlite" else {"database_url": fresh_postgres()}
    return database | {"stub_seconds_per_query": 10}


@pytest.mark.parametrize("name", ["", "same"])
def test_a_process_that_cannot_have_its_port_gives_nothing_of_anothers_back(
    tmp_path, settings, name
):
    with running(tmp_path, replica=name, **settings) as server:
        key = server.mint(10)
        with server.client(key) as client, ThreadPoolExecutor(1) as pool:
            request = text_request(image_set(client), prompts=1)
            bought = pool.submit(ask, client, request, "one")
            wait_until_it_stands(client, (0, 1))
            second = subprocess.run(
                [SCRIPTS / "craft-server", "serve"],
                env=server.env,  # the same port
                capture_output=True,
                text=True,
                timeout=ENDS_S,
                check=False,
            )
            assert second.returncode == 3
            assert "nothing can listen on 127.0.0.1" in second.stderr
            assert stands(client) == (0, 1)
            assert bought.result().status_code == 200
            assert stands(client) == (1, 0)


@pytest.mark.parametrize("name", ["", "same"])
def test_a_second_server_gives_nothing_of_the_firsts_back(tmp_path, settings, name):
    with running(tmp_path, replica=name, **settings) as server:
        key = server.mint(10)
        with server.client(key) as client, ThreadPoolExecutor(1) as pool:
            request = text_request(image_set(client), prompts=1)
            bought = pool.submit(ask, client, request, "one")
            wait_until_it_stands(client, (0, 1))
            with running(tmp_path, replica=name, **settings):
                assert stands(client) in {(0, 1), (1, 0)}
                assert bought.result().status_code == 200
            assert stands(client) == (1, 0)


def test_what_a_killed_process_without_a_name_held_returns_when_another_starts(tmp_path):
    with running(tmp_path, stub_seconds_per_query=4) as first:
        key = first.mint(10)
        with first.client(key) as client, ThreadPoolExecutor(1) as pool:
            request = text_request(image_set(client), prompts=1)
            lost = pool.submit(ask, client, request, "one")
            wait_until_it_stands(client, (0, 1))
            first.kill()
            with pytest.raises(httpx.HTTPError):
                lost.result()
        with running(tmp_path) as second, second.client(key) as client:
            assert stands(client) == (0, 0)


def test_sighup_finishes_what_runs_and_exits_cleanly(tmp_path):
    with running(tmp_path, stub_seconds_per_query=1) as server:
        key = server.mint(10)
        with server.client(key) as client, ThreadPoolExecutor(1) as pool:
            request = text_request(image_set(client), prompts=2)
            running_call = pool.submit(ask, client, request, "one")
            wait_until_it_stands(client, (0, 2))
            server.process.send_signal(signal.SIGHUP)
            assert server.process.wait(30) in {0, -signal.SIGHUP}
            assert running_call.result().status_code == 200
        server.start()
        with server.client(key) as client:
            assert stands(client) == (2, 0)
            assert_books_balance(server, client)
