"""Ports are had, or said to be taken, before anything else is done."""

import logging
import socket

import pytest

from craft_server.api.listening import NOT_STARTED, bound, check_free


@pytest.fixture
def taken():
    """A port of the loopback address that another program has."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as other:
        return other.getsockname()[1]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("craft_server.api.listening._KILLED_S", 0.0)


def said(caplog, *arguments, **options):
    """The one line that is written where the program ends."""
    with caplog.at_level(logging.ERROR), pytest.raises(SystemExit) as stopped:
        check_free(*arguments, **options)
    assert stopped.value.code == NOT_STARTED
    (record,) = caplog.records
    return record.getMessage()


def test_addresses_that_are_free_are_let_go_again():
    places = ("127.0.0.1", free_port()), ("localhost", free_port())
    check_free(*places)
    check_free(*places)


def test_a_taken_port_is_named(taken, caplog):
    line = said(caplog, ("127.0.0.1", taken), None)
    assert (
        line
        == f"nothing can listen on 127.0.0.1:{taken}: Address already in use; give another port"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_of_the_metrics_is_named(taken, caplog, host):
    line = said(caplog, ("127.0.0.1", 0), (host, taken))
    assert line.endswith("Address already in use; give another metrics_port")


def test_one_port_for_both_is_refused(caplog):
    port = free_port()
    assert "metrics_port" in said(caplog, ("127.0.0.1", port), ("127.0.0.1", port))


@pytest.mark.parametrize("host", ["a..b", "http://localhost", "256.1.1.1", "x" * 300, "192.0.2.1"])
def test_a_host_that_is_none_is_one_line(caplog, host):
    line = said(caplog, (host, 0), None)
    assert line.startswith(f"nothing can listen on {host}:0: ")
    assert "give another" not in line


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6_is_listened_on():
    (only,) = bound("::1", 0)
    with only:
        assert only.getsockname()[0] == "::1"
