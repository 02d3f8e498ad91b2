"""Proxies and certificates of the environment are used as meant, or refused by name."""

import os
import shutil
import ssl
import subprocess

import pytest

from craft_tuner.client.account import fetch_key
from craft_tuner.client.failures import mistrust
from craft_tuner.client.surroundings import find_proxy, trusted, way_to
from craft_tuner.client.transport import Transport
from craft_tuner.config.connection import Connection
from craft_tuner.errors import CraftTunerError, NoAnswer, ServerUnreachable, UsageError
from tests.support.tls import behind_tls, make_authority
from tests.support.tuner_server import KEY, FakeServer, impatient, listening

PROXY = "http://proxy.test:3128"


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """No proxy and no certificates of the machine that runs the tests."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith("SSL_CERT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def setting(monkeypatch):
    def set_all(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


# --- proxies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "url", "used"),
    [
        ({"HTTP_PROXY": PROXY}, "http://a.test", "HTTP_PROXY"),
        ({"HTTP_PROXY": PROXY}, "https://a.test", None),
        ({"HTTPS_PROXY": PROXY}, "https://a.test", "HTTPS_PROXY"),
        ({"http_proxy": PROXY}, "http://a.test", "http_proxy"),
        ({"http_proxy": PROXY, "HTTP_PROXY": "socks://x"}, "http://a.test", "http_proxy"),
        ({"ALL_PROXY": PROXY}, "https://a.test", "ALL_PROXY"),
        ({"ALL_PROXY": "socks://x", "HTTP_PROXY": PROXY}, "http://a.test", "HTTP_PROXY"),
        ({"HTTP_PROXY": ""}, "http://a.test", None),
        ({}, "http://a.test", None),
    ],
)
def test_the_variable_that_counts_is_found(setting, variables, url, used):
    setting(**variables)
    found = find_proxy(url)
    assert (found and found.variable) == used
    assert found is None or found.url == PROXY


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "http://127.1.2.3",
        "http://localhost:1",
        "http://localhost.",
        "http://craft.localhost",
        "http://[::1]:8000",
    ],
)
def test_no_proxy_stands_between_this_machine_and_itself(setting, url):
    setting(HTTP_PROXY=PROXY, ALL_PROXY="socks://nonsense")
    assert find_proxy(url) is None


@pytest.mark.parametrize(
    ("listed", "host", "passed"),
    [
        ("*", "a.test", True),
        ("b.test,a.test", "a.test", True),
        (" b.test , a.test ", "a.test", True),
        ("b.test a.test", "a.test", True),
        ("a.test", "x.a.test", True),
        (".a.test", "x.a.test", True),
        ("*.a.test", "x.a.test", True),
        ("A.Test", "a.test", True),
        ("a.test", "a.test.", True),
        ("http://a.test/", "a.test", True),
        ("a.test:80", "a.test", True),
        ("a.test:81", "a.test", False),
        ("a.test", "ba.test", False),
        ("10.0.0.0/8", "10.2.3.4", True),
        ("10.0.0.0/8", "11.2.3.4", False),
        ("10.2.3.4", "10.2.3.4", True),
        ("[fd00::1]", "[fd00::1]", True),
        ("fd00::/8", "[fd12::1]", True),
        ("[fd00::1]:80", "[fd00::1]", True),
        ("[::1]", "a.test", False),
        ("[::1", "a.test", False),
        ("10.0.0.0/99, http://, :, [], a.test:port, \N{SNOWMAN}", "a.test", False),
    ],
)
def test_hosts_that_need_none_are_known_however_they_are_written(setting, listed, host, passed):
    setting(HTTP_PROXY=PROXY, NO_PROXY=listed)
    assert (find_proxy(f"http://{host}") is None) is passed


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("socks://localhost:1080", "allowed: http://, https://, socks5://, socks5h://"),
        ("socks4://localhost:1080", "allowed: http://"),
        ("ftp://proxy.test", "allowed: http://"),
        ("http://", "allowed: http://"),
        ("http://[::1", "allowed: http://"),
        ("proxy.test:port", "allowed: http://"),
        ("http://999.1.1.1", "allowed: http://"),
        ("http://xn--", "allowed: http://"),
    ],
)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "all_proxy"])
def test_a_proxy_that_cannot_be_used_is_named_with_what_can(setting, variable, value, words):
    setting(**{variable: value})
    with pytest.raises(UsageError, match=words) as refusal:
        Transport(Connection("http://a.test", KEY))
    assert str(refusal.value).startswith(f"{variable}=")


def test_a_proxy_that_needs_a_package_says_which(setting, monkeypatch):
    monkeypatch.setattr("craft_tuner.client.surroundings.find_spec", lambda _: None)
    setting(ALL_PROXY="socks5://me:secret@localhost:1080")
    with pytest.raises(UsageError, match=r"ALL_PROXY='socks5://localhost:1080' .*httpx\[socks\]"):
        Transport(Connection("http://a.test", KEY))


@pytest.mark.parametrize("value", ["http://me:secret@127.0.0.1:1", "127.0.0.1:1"])
def test_a_proxy_that_does_not_answer_is_said_to_stand_in_between(setting, value):
    setting(HTTP_PROXY=value)
    with impatient("http://a.test") as transport, pytest.raises(NoAnswer) as refusal:
        fetch_key(transport)
    said = str(refusal.value)
    assert said.endswith("the way leads through the proxy HTTP_PROXY='http://127.0.0.1:1'")


def test_requests_go_through_the_proxy(setting):
    server = FakeServer()
    with listening(server) as url:
        setting(HTTP_PROXY=url)
        with impatient("http://a.test") as transport, pytest.raises(CraftTunerError):
            fetch_key(transport)
    assert server.asked[0].path == "http://a.test/v1/key"


# --- certificates -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate of localhost that vouches for itself, in PEM, beside its key."""
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def tunnel(authority):
    """The address of a server behind TLS on this machine."""
    with behind_tls(authority) as url:
        yield url


def test_an_authority_of_ones_own_counts_at_the_end_of_a_tunnel_too(tunnel, authority, setting):
    setting(SSL_CERT_FILE=str(authority / "ca.pem"), HTTPS_PROXY="socks://nonsense")
    with impatient(tunnel) as transport:
        assert fetch_key(transport).owner == "tests"


def test_so_does_a_folder_of_authorities(tunnel, authority, setting, tmp_path):
    shutil.copy(authority / "ca.pem", tmp_path)
    subprocess.run(["openssl", "rehash", tmp_path], check=True)
    setting(SSL_CERT_DIR=f"{tmp_path / 'missing'}{os.pathsep}{tmp_path}")
    with impatient(tunnel) as transport:
        assert fetch_key(transport).owner == "tests"


@pytest.mark.parametrize(
    ("host", "words"), [("localhost", "self-signed"), ("127.0.0.1", "self-signed|IP address")]
)
def test_a_certificate_that_nobody_vouches_for_is_told_apart_at_once(tunnel, host, words):
    said = []
    with impatient(tunnel.replace("localhost", host), notice=said.append) as transport:
        expected = f"not trusted .*({words}).*SSL_CERT_FILE"
        with pytest.raises(ServerUnreachable, match=expected):
            fetch_key(transport)
    assert said == []


@pytest.mark.parametrize(
    ("code", "words"),
    [(10, "renew it, unless this machine's clock"), (9, "renew it"), (18, "SSL_CERT_FILE")],
)
def test_a_certificate_that_is_out_of_date_is_not_a_matter_of_trust(code, words):
    untrusted = ssl.SSLCertVerificationError(1, "no")
    untrusted.verify_code, untrusted.verify_message = code, "certificate has expired"
    assert words in str(mistrust("https://a.test", untrusted))


def test_a_plain_server_asked_for_tls_is_told_apart():
    with (
        listening(FakeServer()) as url,
        impatient(url.replace("http:", "https:")) as transport,
        pytest.raises(ServerUnreachable, match="does not answer in TLS"),
    ):
        fetch_key(transport)


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty", "key"])
def test_a_file_that_has_no_certificates_is_named(setting, tmp_path, kind):
    path = tmp_path / "ca.pem"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        header = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
        path.write_text({"text": "hello", "empty": "", "key": header}[kind])
    setting(SSL_CERT_FILE=str(path))
    with pytest.raises(UsageError, match=r"SSL_CERT_FILE=.* cannot be used .*needed: a PEM file"):
        Transport(Connection("https://a.test", KEY))


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "names"])
def test_a_folder_that_has_no_certificates_is_named(setting, tmp_path, kind):
    path = tmp_path / "certs"
    if kind == "file":
        path.write_text("")
    elif kind != "missing":
        path.mkdir()
    if kind == "names":
        (path / "ca.pem").write_text("unhashed")
    setting(SSL_CERT_DIR=str(path))
    with pytest.raises(UsageError, match=r"SSL_CERT_DIR=.* cannot be used .*openssl rehash"):
        trusted()


def test_certificates_do_not_matter_where_nothing_is_encrypted(setting):
    setting(SSL_CERT_FILE="/missing", SSL_CERT_DIR="/missing")
    assert way_to("http://a.test").proxy is None
    setting(HTTP_PROXY="https://proxy.test")
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        way_to("http://a.test")
