"""The way to a server as the environment has it: the proxy in between, and whom TLS trusts.

    HTTP_PROXY, HTTPS_PROXY, ALL_PROXY   the proxy of http, https or both; none to this machine
    NO_PROXY                             hosts, domains and networks without one; `*`: all
    SSL_CERT_FILE, else SSL_CERT_DIR     authorities in place of those that certifi brings

Owns which variable counts, and the sentence where it cannot be used. Names in small letters win, as
Python's own library has them.
"""

import ipaddress
import os
import re
import ssl
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from craft_tuner.config.connection import is_loopback
from craft_tuner.errors import UsageError

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")

_SYSTEM = "the system's proxy"
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")
"""A certificate's name in a folder, as `openssl rehash` gives it; others are not looked at."""
_BRACKETS = re.compile(r"^\[(.*)\](/\d+)?$")
"""Of an address or a network as URLs have them."""


@dataclass(frozen=True)
class Proxy:
    """A proxy and the variable that names it."""

    variable: str
    url: str

    def __str__(self) -> str:
        """For people: no password."""
        scheme, _, rest = self.url.partition("://")
        shown = f"{scheme}://{rest.rpartition('@')[2]}"
        return f"{self.variable}={shown!r}"


@dataclass(frozen=True)
class Way:
    """How a server is reached: through which proxy, if any, and whose certificates count."""

    proxy: Proxy | None
    tls: ssl.SSLContext

    @property
    def http_proxy(self) -> httpx.Proxy | None:
        """The proxy as the HTTP client takes it."""
        if self.proxy is None:
            return None
        secret = self.proxy.url.startswith("https:")
        return httpx.Proxy(self.proxy.url, ssl_context=self.tls if secret else None)


def way_to(url: str) -> Way:
    """The way to an address.

    Raises:
        UsageError: it is no address, or a variable that counts for it cannot be used.
    """
    try:
        httpx.URL(url).host  # noqa: B018 - reading it decodes the name
    except (httpx.InvalidURL, UnicodeError) as error:
        raise UsageError(
            f"--server {url!r} is no address ({error}); needed: a URL such as http://127.0.0.1:8000"
        ) from error
    proxy = find_proxy(url)
    secret = url.startswith("https:") or (proxy is not None and proxy.url.startswith("https:"))
    return Way(proxy, trusted() if secret else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def find_proxy(url: str) -> Proxy | None:
    """The proxy that the environment has for an address; None: there is none in between.

    Raises:
        UsageError: its scheme is not supported, or it is no address.
    """
    parts = urlsplit(url)
    host, known = parts.hostname or "", getproxies()
    value = known.get(parts.scheme) or known.get("all")
    if not value or is_loopback(url):
        return None
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    if _is_listed(host, port, known.get("no", "")) or proxy_bypass(host):
        return None
    names = {f"{parts.scheme}_proxy", "all_proxy"}
    given = (name for name in sorted(os.environ, reverse=True) if name.lower() in names)
    variable = next((name for name in given if os.environ[name] == value), _SYSTEM)
    proxy = Proxy(variable, value if "://" in value else f"http://{value}")
    _check(proxy)
    return proxy


def trusted() -> ssl.SSLContext:
    """Whose certificates count, to this machine too: a tunnel ends here and begins elsewhere.

    Raises:
        UsageError: SSL_CERT_FILE or SSL_CERT_DIR names nothing that can be used.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file:
        return _of_file(file)
    if folder:
        _check_folder(folder)
        return ssl.create_default_context(capath=folder)
    return httpx.create_ssl_context(trust_env=False)


def _of_file(file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=file)
    except ssl.SSLError as error:
        reason = (error.reason or "unreadable").lower().replace("_", " ")
    except OSError as error:
        reason = error.strerror or "unreadable"
    raise UsageError(
        f"SSL_CERT_FILE={file!r} cannot be used ({reason}); needed: a PEM file of the authorities "
        "to trust, or unset it for the usual ones"
    )


def _check_folder(folder: str) -> None:
    reason = "it has no certificate under its hash"
    for each in folder.split(os.pathsep):
        try:
            if any(_HASHED.fullmatch(path.name) for path in Path(each).iterdir()):
                return
        except OSError as error:
            reason = error.strerror or reason
    raise UsageError(
        f"SSL_CERT_DIR={folder!r} cannot be used ({reason}); needed: a folder of certificates that "
        "`openssl rehash` has been through, or unset it for the usual ones"
    )


def _check(proxy: Proxy) -> None:
    try:
        parsed = httpx.URL(proxy.url)
        usable = parsed.scheme in PROXY_SCHEMES and bool(parsed.host)
    except (httpx.InvalidURL, UnicodeError):
        usable = False
    if not usable:
        allowed = ", ".join(f"{scheme}://" for scheme in PROXY_SCHEMES)
        raise UsageError(
            f"{proxy} is no proxy that can be used; allowed: {allowed} with host and port, or the "
            "server's name in NO_PROXY"
        )
    if parsed.scheme.startswith("socks") and find_spec("socksio") is None:
        raise UsageError(
            f"{proxy} needs the package socksio; install it with `pip install 'httpx[socks]'`, or "
            "put the server's name in NO_PROXY"
        )


def _is_listed(host: str, port: int, listed: str) -> bool:
    """Whether NO_PROXY has a host: by name, domain, address or network; what is none is passed."""
    return any(_covers(entry, host, port) for entry in re.split(r"[\s,]+", listed.lower()) if entry)


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(_BRACKETS.sub(r"\1\2", entry), strict=False)
        return ipaddress.ip_address(host) in network
    except ValueError:
        pass  # a name, or a host with its port
    try:
        parts = urlsplit(entry if "://" in entry else f"//{entry}")
        name, only = (parts.hostname or "").removeprefix("*").strip("."), parts.port or port
    except ValueError:
        return False
    host = host.removesuffix(".")
    return bool(name) and only == port and (host == name or host.endswith(f".{name}"))
